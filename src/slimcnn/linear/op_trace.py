"""Trace one run of a network: every operation, with the tensors that it reads and produces."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from slimcnn.graph.execution import call_model, outputs_of
from slimcnn.graph.fast.module_tree import named_modules
from slimcnn.graph.operations import OperationKind, name_of, operation
from slimcnn.linear.layerwise_replay import computes

Version = tuple[int, int]
"""A tensor (by `id`) and the number of times it was written into."""


@dataclass(frozen=True)
class RecordedOp:
    """One operation of a run."""

    name: str
    number: int
    """Its index among the operations that count."""
    counts: bool
    """Whether it computes something from tensors (see `layerwise_replay.computes`)."""
    args: tuple[Any, ...]
    plain: bool
    """It had no keyword arguments."""
    pointwise: bool
    reads: tuple[Version, ...]
    makes: tuple[Version, ...]

    @property
    def kind(self) -> OperationKind:
        """Its kind in the table of operations."""
        return operation(self.name).kind


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module: its steps from `begin` up to but not including `end`, its inputs and its outputs."""

    module: str
    begin: int
    end: int
    inputs: tuple[Version, ...]
    outputs: tuple[Version, ...]


class Recorder(TorchDispatchMode):
    """Record every operation; hold all tensors, so that no `id` is reused."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[RecordedOp] = []
        self.calls: list[ModuleCall] = []
        self._number = 0
        self._held: list[Tensor] = []
        self._versions: dict[int, int] = defaultdict(int)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reads = self.versions_of((*args, *(kwargs or {}).values()))
        counts = computes(func, (*args, *(kwargs or {}).values()))
        number, self._number = self._number, self._number + counts
        out = func(*args, **(kwargs or {}))
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor):
                self._versions[id(value)] += 1
        name = name_of(func)
        self.steps.append(
            RecordedOp(
                name, number, counts, args, not kwargs, torch.Tag.pointwise in func.tags, reads, self.versions_of(out)
            )
        )
        return out

    def versions_of(self, values: Any) -> tuple[Version, ...]:
        """Return the current versions of all tensors in `values`."""
        found = [t for t in tree_leaves(values) if isinstance(t, Tensor)]
        self._held += found
        return tuple((id(t), self._versions[id(t)]) for t in found)


def record(model: nn.Module, example: Any) -> tuple[Recorder, list[Tensor]]:
    """Run a network once without gradients; record its operations and its module calls, inner calls first.

    >>> recorder, outputs = record(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.ones(1, 2))
    >>> [step.name for step in recorder.steps], [call.module for call in recorder.calls], outputs[0].shape
    (['clone', 't', 'addmm', 'relu'], ['0', '1', ''], torch.Size([1, 3]))
    """
    recorder = Recorder()
    with torch.no_grad(), _record_calls(model, recorder), recorder:
        outputs = outputs_of(call_model(model, tree_map_only(Tensor, torch.clone, example)))
    return recorder, outputs


@contextmanager
def _record_calls(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    begun: list[tuple[int, tuple[Version, ...]]] = []

    def begin(_: nn.Module, inputs: Any, named: Any) -> None:
        begun.append((len(recorder.steps), recorder.versions_of((inputs, named))))

    def ending(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def end(_: nn.Module, __: Any, outputs: Any) -> None:
            first, inputs = begun.pop()
            recorder.calls.append(ModuleCall(name, first, len(recorder.steps), inputs, recorder.versions_of(outputs)))

        return end

    handles: list[Any] = []
    try:
        for name, module in named_modules(model):
            if not isinstance(module, torch.jit.ScriptModule):
                handles.append(module.register_forward_pre_hook(begin, with_kwargs=True))
                handles.append(module.register_forward_hook(ending(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def names_of_tensors(model: nn.Module) -> dict[int, str]:
    """Return the names of a network's parameters and buffers by `id`."""
    return {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
