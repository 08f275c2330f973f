"""Run a network under the tracer, and refuse networks and examples that do not fit each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from slimcnn.errors import ModelError
from slimcnn.graph.atoms import named_tensors
from slimcnn.graph.ids import Label
from slimcnn.graph.tracer import SKIPPED_FOLDERS, Ledger, Mark, NeedsValues, Tracer


def watch(model: nn.Module, example: Any, labels: Mapping[str, Label], next_id: int) -> tuple[Ledger, int]:
    """Run the network under the tracer; once more with real numbers if numbers steer it."""
    try:
        return _run(model, example, labels, next_id, hollow=True)
    except NeedsValues:
        return _run(model, example, labels, next_id, hollow=False)


def _run(model: nn.Module, example: Any, labels: Mapping[str, Label], next_id: int, hollow: bool) -> tuple[Ledger, int]:
    tracer = Tracer({module: name for name, module in model.named_modules()}, next_id, hollow)
    for name, tensor in named_tensors(model):
        tracer.set_mark(tensor, Mark(labels[name], hollow=False, fixed=True))
    for tensor in tree_leaves(example):
        if isinstance(tensor, Tensor):
            tracer.set_mark(tensor, Mark(()))
    try:
        with tracer.watching():
            output = call_model(model, example)
    except NeedsValues:
        raise
    except Exception as error:
        raise Broken(error, tracer.ledger) from error
    for tensor in tree_leaves(output):
        if isinstance(tensor, Tensor):
            tracer.lock_label(tracer.label(tensor), "the network's output", None)
    return tracer.ledger, tracer.next_id


class Broken(ModelError):
    """The run broke off; the ledger knows how far it came."""

    def __init__(self, cause: Exception, ledger: Ledger) -> None:
        self.ledger = ledger
        self.function = _failing_function(cause)
        """File and function of the user's code in which the run broke off."""
        self.reason = first_line = (str(cause).strip() or type(cause).__name__).split("\n")[0]
        place = f" at {ledger.current}" if ledger.current else ""
        super().__init__(f"the network failed{place}: {first_line}")


def call_model(model: nn.Module, example: Any) -> Any:
    """Call a network on an example: a tensor, a tuple of positional or a dict of keyword inputs."""
    if isinstance(example, dict):
        return model(**example)
    return model(*example) if isinstance(example, tuple | list) else model(example)


def batch_size(example: Any) -> int:
    """Read the batch size of an example; refuse what is no batch of inputs."""
    tensors = [t for t in tree_leaves(example) if isinstance(t, Tensor)]
    if not tensors or tensors[0].dim() < 2 or 0 in tensors[0].shape:
        shapes = [tuple(t.shape) for t in tensors]
        raise ModelError(f"the example must be a batch of inputs like (1, 3, 32, 32); found {shapes or example!r}")
    return int(tensors[0].shape[0])


def check_batch(model: nn.Module, example: Any, batch: int) -> None:
    """Refuse networks whose output does not grow with the batch: a plan for one batch would be wrong for another."""
    doubled = tree_map_only(Tensor, lambda t: torch.cat([t, t]) if t.dim() and t.shape[0] == batch else t, example)
    tracer = Tracer({}, 0)
    for tensor in tree_leaves(doubled):
        if isinstance(tensor, Tensor):
            tracer.set_mark(tensor, Mark(()))
    try:
        with tracer.watching():
            output = call_model(model, doubled)
    except NeedsValues:
        return
    except Exception as error:
        first_line = str(error).strip().split("\n")[0]
        raise ModelError(
            f"the network accepts a batch of {batch} but not of {2 * batch} ({first_line}); "
            "its code must not have the batch size written into it"
        ) from error
    if isinstance(output, Tensor) and (output.dim() == 0 or output.shape[0] != 2 * batch):
        raise ModelError(
            f"the network returns shape {tuple(output.shape)} for a batch of {2 * batch}: the first axis of its "
            "output must be the batch"
        )


def _failing_function(error: BaseException) -> tuple[str, str]:
    found, trace = ("", ""), error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith(SKIPPED_FOLDERS):
            found = (code.co_filename, code.co_qualname)
        trace = trace.tb_next
    return found
