"""Run a network under the tracer, and reject networks and examples that do not match."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from slimcnn.errors import ModelError
from slimcnn.graph import fast
from slimcnn.graph.channels import everything
from slimcnn.graph.copying import shallow_copy
from slimcnn.graph.fast.module_tree import named_modules, named_tensors
from slimcnn.graph.ids import Label
from slimcnn.graph.rules import apply_rule
from slimcnn.graph.trace_record import Mark, NeedsValues, TraceRecord
from slimcnn.graph.tracer import SKIPPED_FOLDERS, Tracer
from slimcnn.measuring.examples import call, image_lists_in, resized_lists
from slimcnn.measuring.lifetimes import Lifetimes

OutputOf = Callable[[Any], Any]
"""Picks what counts from a network's answer: one or several tensors of it."""


def watch(
    model: nn.Module,
    example: Any,
    labels: Mapping[str, Label],
    next_id: int,
    inexact: bool = False,
    output: OutputOf = everything,
) -> Tracer:
    """Run a copy of the network under the tracer, in its current mode.

    If its control flow depends on values, run it again with values.

    Raises:
        Broken: the network failed.
    """
    try:
        return watch_this(shallow_copy(model), example, labels, next_id, fast.is_on(), inexact, output)
    except NeedsValues:
        return watch_this(shallow_copy(model), example, labels, next_id, False, inexact, output)


def watch_this(
    model: nn.Module, example: Any, labels: Mapping[str, Label], next_id: int, shape_only: bool, inexact: bool,
    output: OutputOf = everything, unset: Container[str] = (),
) -> Tracer:  # fmt: skip
    """Run the network itself under the tracer; its buffers may change. Tensors named in `unset` have no values.

    Raises:
        Broken: the network failed.
        NeedsValues: the control flow depends on values that a shape-only run does not compute.
    """
    modules = named_modules(model)
    names = {module: name for name, module in modules}
    tracer = Tracer(apply_rule, names, next_id, shape_only, model.training, inexact)
    tensors = named_tensors(model, modules)
    for name, tensor in tensors:
        tracer.set_mark(tensor, Mark(labels.get(name, ()), computed=name not in unset, fixed=True))
    inputs = [tensor for tensor in tree_leaves(example) if isinstance(tensor, Tensor)]
    for tensor in inputs:
        tracer.set_mark(tensor, Mark(()))
    tracer.lifetimes = Lifetimes([tensor for _, tensor in tensors], inputs)
    try:
        with tracer.watching():
            answer = call_model(model, example)
            tracer.outputs = counted(answer, output)
        dicts = isinstance(answer, list) and all(isinstance(one, Mapping) for one in answer)
        tracer.answers = len(answer) if dicts else None
    except (NeedsValues, ModelError):
        raise
    except Exception as error:
        raise Broken(error, tracer.record, example) from error
    tracer.unread = {name for name, tensor in tensors if id(tensor) not in tracer.used}
    tracer.record.memory = tracer.memory()
    for tensor in tracer.outputs:
        if tracer.mark(tensor) is None:
            tracer.lock_alias(tensor)
        tracer.lock_label(tracer.label(tensor), "the network's output", None)
    return tracer


CONTROL_FLOW = "torch.cond and other higher-order operators cannot be traced; write a Python if or loop"


class Broken(ModelError):
    """The run failed; `record` holds all operations up to the failure."""

    def __init__(self, cause: Exception, record: TraceRecord, example: Any) -> None:
        self.record = record
        self.function = _failing_function(cause)
        """File and function of the user's code in which the run failed."""
        self.reason = CONTROL_FLOW if "HigherOrderOperator" in str(cause) else first_line(cause)
        place = f" at {record.last.site}" if record.last else ""
        super().__init__(
            f"the network does not accept an input of {shapes_of(example)}: it failed{place}: {self.reason}; "
            "pass an example of the shape that the network expects"
        )


def first_line(error: Exception) -> str:
    """Return the first line of an error message."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]


def call_model(model: nn.Module, example: Any) -> Any:
    """Call a network on an example: a tensor, several arguments, or a list of images (see `measuring.Example`)."""
    return call(model, example)


def counted(answer: Any, output: OutputOf) -> list[Tensor]:
    """List the tensors of a network's answer that count.

    Raises:
        ModelError: the user's function fails on the answer.
    """
    try:
        chosen = output(answer)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
        found = sorted(answer) if isinstance(answer, Mapping) else type(answer).__name__
        raise ModelError(
            f"output= fails on the network's answer, {found}: {type(error).__name__}: {error}; it takes what the "
            "network returns, and returns the tensors that count"
        ) from error
    return outputs_of(chosen)


def outputs_of(output: Any) -> list[Tensor]:
    """List the tensors in a network's output: a tensor, or tuples, lists, dicts and dataclasses of them.

    Raises:
        ModelError: no tensor in the output, or an object of an unsupported type.

    >>> len(outputs_of({"out": torch.ones(1), "more": [torch.ones(2), None]}))
    2
    """
    found = list(_tensors_in(output))
    if not found:
        raise ModelError(f"the network returns no tensors (found {type(output).__name__}); return at least one tensor")
    return found


def _tensors_in(output: Any) -> Iterator[Tensor]:
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor):
            yield leaf
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            yield from _tensors_in([getattr(leaf, field.name) for field in dataclasses.fields(leaf)])
        elif not isinstance(leaf, int | float | str | bytes | None):
            raise ModelError(
                f"the network returns a {type(leaf).__name__}, which is not supported; return tensors, or tuples, "
                "lists, dicts or dataclasses of tensors"
            )


def shapes_of(example: Any) -> str:
    """Describe the shapes of an example's tensors.

    >>> shapes_of((torch.ones(1, 3), torch.ones(1, 4)))
    'shape (1, 3), (1, 4)'
    """
    shapes = [str(tuple(t.shape)) for t in tree_leaves(example) if isinstance(t, Tensor)]
    return f"shape {', '.join(shapes)}" if shapes else f"{example!r}"


def batch_size(example: Any) -> int:
    """Return the batch size of an example; reject anything that is not a batch of inputs, or a list of images."""
    if lists := image_lists_in(example):
        return len(lists[0])
    tensors = [t for t in tree_leaves(example) if isinstance(t, Tensor)]
    if not tensors or tensors[0].dim() < 2 or 0 in tensors[0].shape:
        found = shapes_of(example) if tensors else type(example).__name__
        raise ModelError(f"the example must be a batch of inputs like (1, 3, 32, 32); found {found}")
    return int(tensors[0].shape[0])


def doubled(example: Any, batch: int) -> Any:
    """Repeat every sample of an example.

    >>> doubled(torch.zeros(1, 3), 1).shape
    torch.Size([2, 3])
    """
    if lists := image_lists_in(example):
        return resized_lists(example, 2 * len(lists[0]))
    return tree_map_only(Tensor, lambda t: torch.cat([t, t]) if t.dim() and t.shape[0] == batch else t, example)


def at_another_size(example: Any) -> Any | None:
    """Enlarge the images of an example, (n, c, h, w), by the largest power of two up to 32 that divides each side.

    A network that accepts sides of 224 only by the multiple of 32 accepts 256 too. None if there are no images.

    >>> at_another_size(torch.zeros(1, 3, 224, 8)).shape
    torch.Size([1, 3, 256, 16])
    """
    found = False

    def enlarged(tensor: Tensor) -> Tensor:
        nonlocal found
        if tensor.dim() != 4 or not tensor.is_floating_point():
            return tensor
        found = True
        sides = [side + min(side & -side, 32) for side in tensor.shape[2:]]
        return torch.nn.functional.interpolate(tensor, sides)

    larger = tree_map_only(Tensor, enlarged, example)
    return larger if found else None


@dataclasses.dataclass(frozen=True)
class FirstRun:
    """The run of the original network in eval mode."""

    tracer: Tracer
    example: Any
    """What it ran on: every sample twice, where the network accepts that."""
    images: int
    """Samples in it."""
    unproven: tuple[str, ...] = ()
    """What this run could not check."""


def watch_twice(
    model: nn.Module, example: Any, batch: int, labels: Mapping[str, Label], next_id: int, inexact: bool,
    output: OutputOf = everything,
) -> FirstRun:  # fmt: skip
    """Trace the network on a doubled batch, so that the batch is never mistaken for channels.

    A network with a hard-coded batch size is traced at that size; `unproven` says so.

    Raises:
        ModelError: the network does not accept the example, or the example is one image without a batch.
    """
    twice = doubled(example, batch)
    try:
        tracer = watch(model, twice, labels, next_id, inexact, output)
    except Broken as broken:
        tracer = watch(model, example, labels, next_id, inexact, output)
        first = next(t for t in tree_leaves(example) if isinstance(t, Tensor))
        if (
            first.dim() == 3
            and not image_lists_in(example)
            and any(isinstance(module, nn.Conv2d) for module in model.modules())
        ):
            raise ModelError(
                f"the network accepts a batch of {batch} but not of {2 * batch} ({broken.reason}); the example's first "
                "axis must be the batch"
            ) from broken
        note = f"other batch sizes than {batch}: the network does not accept {2 * batch} ({broken.reason})"
        return FirstRun(tracer, example, batch, (note,))
    shape = tuple(tracer.outputs[0].shape)
    if tracer.answers == 2 * batch:
        return FirstRun(tracer, twice, 2 * batch)
    if shape[:1] == (2 * batch,):
        return FirstRun(tracer, twice, 2 * batch)
    note = f"that every sample is computed alone: the output has shape {shape} for a batch of {2 * batch}"
    return FirstRun(tracer, twice, 2 * batch, (note,))


def _failing_function(error: BaseException) -> tuple[str, str]:
    found, trace = ("", ""), error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith(SKIPPED_FOLDERS):
            found = (code.co_filename, code.co_qualname)
        trace = trace.tb_next
    return found
