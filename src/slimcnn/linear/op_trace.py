"""One run of a network written down: every operation, what it reads and what it makes."""

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
"""A tensor (by `id`) and how often it was written into."""


@dataclass(frozen=True)
class RecordedOp:
    """One operation of a run."""

    name: str
    number: int
    """Of operations that count."""
    counts: bool
    """Whether it computes something from tensors (see `stretches.computes`)."""
    args: tuple[Any, ...]
    plain: bool
    """Nothing else was given."""
    pointwise: bool
    reads: tuple[Version, ...]
    makes: tuple[Version, ...]

    @property
    def kind(self) -> OperationKind:
        """What the table of operations calls it."""
        return operation(self.name).kind


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module: which steps it made, from `begin` to before `end`, of what, and what came out."""

    module: str
    begin: int
    end: int
    inputs: tuple[Version, ...]
    outputs: tuple[Version, ...]


class Recorder(TorchDispatchMode):
    """Writes every operation down; holds all tensors, so that no `id` is used twice."""

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
        """Tell which tensors these are, and how often each was written into until now."""
        found = [t for t in tree_leaves(values) if isinstance(t, Tensor)]
        self._held += found
        return tuple((id(t), self._versions[id(t)]) for t in found)


def record(model: nn.Module, example: Any) -> tuple[Recorder, list[Tensor]]:
    """Run a network once without gradients; write down its operations, and the calls of its modules, inner ones first.

    >>> recorder, outputs = record(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.ones(1, 2))
    >>> [step.name for step in recorder.steps], [call.module for call in recorder.calls], outputs[0].shape
    (['clone', 't', 'addmm', 'relu'], ['0', '1', ''], torch.Size([1, 3]))
    """
    recorder = Recorder()
    with torch.no_grad(), _calls_noted(model, recorder), recorder:
        outputs = outputs_of(call_model(model, tree_map_only(Tensor, torch.clone, example)))
    return recorder, outputs


@contextmanager
def _calls_noted(model: nn.Module, recorder: Recorder) -> Iterator[None]:
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
    """Name the parameters and buffers of a network by their `id`."""
    return {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
