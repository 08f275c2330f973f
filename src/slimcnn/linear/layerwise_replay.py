"""Layerwise replay: run a network over many batches in stretches, and compute every operation once for each batch.

Layers are refitted in network order, each on the outputs of the refitted layers before it. Rerunning the network for
every layer would cost the square of its depth. Instead, the tensors that are alive at an operation are stored, and the
next stretch starts there: all earlier operations return placeholders and are not computed.

Operations are numbered by `computes`: views, copies and constants do not count, since their number depends on the batch
size.
"""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from slimcnn.errors import RunError
from slimcnn.files import temporary_folder
from slimcnn.graph.operations import name_of, operation

INPUT = (-1, 0)
"""The place of the input batch."""

Place = tuple[int, int]
"""The place of a tensor: (index of the operation among all, index of its result)."""

READ_NUMBERS = {Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__}
"""Functions that read a tensor's values outside the dispatcher: networks that call them cannot run on placeholders."""


def computes(func: Any, arguments: Iterable[Any]) -> bool:
    """Return whether an operation counts: it computes something from tensors, and is not a view or copy.

    >>> computes(torch.ops.aten.relu.default, (torch.ones(1),)), computes(torch.ops.aten.t.default, (torch.ones(1, 1),))
    (True, False)
    """
    if not _may_compute(func):
        return False
    return any(isinstance(leaf, Tensor) for argument in arguments for leaf in _items(argument))


def _items(argument: Any) -> Sequence[Any]:
    return argument if isinstance(argument, list | tuple) else (argument,)


@cache
def _may_compute(func: Any) -> bool:
    if operation(name_of(func)).kind in ("copy", "view"):
        return False
    return all(result.alias_info is None or result.alias_info.is_write for result in func._schema.returns)


@dataclass(frozen=True)
class ReplayedOp:
    """One operation of a run, with its inputs and outputs."""

    func: Any
    args: tuple[Any, ...]
    out: Any


class Reached(BaseException):
    """The run reached the end of its stretch."""


@dataclass(frozen=True)
class _Layout:
    """The layout of a tensor, without its memory."""

    size: torch.Size
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: torch.device
    conjugate: bool = False

    @classmethod
    def of(cls, tensor: Tensor) -> _Layout:
        offset = int(tensor.storage_offset())
        return cls(tensor.shape, tensor.stride(), offset, tensor.dtype, tensor.device, tensor.is_conj())

    def placeholder(self) -> Tensor:
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=self.device)

    def on(self, memory: Tensor) -> Tensor:
        tensor = torch.empty(0, dtype=self.dtype, device=memory.device)
        tensor.set_(memory.untyped_storage(), self.offset, self.size, self.stride)
        return tensor.conj() if self.conjugate else tensor


class Shelf:
    """Store lists of tensors by number: in memory up to a limit in bytes, beyond it in files."""

    def __init__(self, limit: int = 2**30) -> None:
        self.limit = limit
        self._held: dict[int, list[Tensor]] = {}
        self._folder: Path | None = None
        self._sweep: Callable[[], object] = lambda: None

    def put(self, number: int, tensors: list[Tensor]) -> None:
        """Store tensors under a number, replacing earlier ones."""
        self._held.pop(number, None)
        if sum(t.nbytes for held in (*self._held.values(), tensors) for t in held) <= self.limit:
            self._held[number] = tensors
            return
        if self._folder is None:
            self._folder = temporary_folder("spill")
            self._sweep = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        try:
            torch.save(tensors, self._file(number))
        except (OSError, RuntimeError) as error:  # torch.save hides the reason when the disk is full
            raise RunError(
                f"cannot write to {self._folder}: free some space or set TMPDIR to another folder"
            ) from error

    def take(self, number: int) -> list[Tensor]:
        """Return copies of the tensors stored under a number."""
        if number in self._held:
            return [tensor.clone() for tensor in self._held[number]]
        found: list[Tensor] = torch.load(self._file(number), weights_only=True)
        return found

    def close(self) -> None:
        """Delete everything."""
        self._held.clear()
        self._sweep()

    def _file(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{number}.pt"


class LayerwiseReplay:
    """Replay a network on many batches, stretch by stretch; a context manager.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).eval()
    >>> seen = []
    >>> with LayerwiseReplay(net, [torch.ones(1, 2)]) as replay:
    ...     replay.go(begin=1, end=1, wanted=[1], look=lambda batch, n, operation: seen.append((batch, n)))
    >>> seen
    [(0, 1)]
    """

    def __init__(self, model: nn.Module, batches: Sequence[Tensor], limit: int = 2**30) -> None:
        self.model = model
        self.begun = [0 for _ in batches]
        """For every batch, the index (among all operations) at which the next stretch begins."""
        self.own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
        self._shelf = Shelf(limit)
        self._inputs = [_Layout.of(batch.clone()) for batch in batches]
        self._alive: list[dict[Place, tuple[int, _Layout]]] = [{INPUT: (0, layout)} for layout in self._inputs]
        self.forms: list[list[Any]] = [[] for _ in batches]
        """For every batch, the results of every operation, with layouts in place of tensors."""
        self._whole = bool(batches) and _reads_values(model, batches[0][:1])
        for number, batch in enumerate(batches):
            self._shelf.put(number, [_memory(batch.clone())])

    def __enter__(self) -> LayerwiseReplay:
        return self

    def __exit__(self, *_: object) -> None:
        self._shelf.close()

    def go(
        self, begin: int, end: int, wanted: Collection[int], look: Callable[[int, int, ReplayedOp], None],
        batches: Iterable[int] | None = None,
    ) -> None:  # fmt: skip
        """Run every batch (or only those in `batches`) up to operation `end`; the next stretch starts at `begin`.

        Batches are independent: each starts at the `begin` of its last call. `look(batch number, operation number,
        operation)` is called for those `wanted` operations that are computed.
        """
        for number in range(len(self._inputs)) if batches is None else batches:
            layout, memories = self._inputs[number], self._shelf.take(number)
            tensors = {place: here.on(memories[i]) for place, (i, here) in self._alive[number].items()}
            stretch = _Stretch(self, number, tensors, -1 if self._whole else begin, end, wanted, look)
            with suppress(Reached), torch.no_grad(), stretch:
                self.model(tensors.pop(INPUT) if INPUT in tensors else layout.placeholder())

    def keep(self, number: int, tensors: dict[Place, Tensor]) -> None:
        """Store the tensors that are alive; memory that several tensors share is stored once."""
        memories: dict[int, tuple[int, Tensor]] = {}
        places = {}
        for place, tensor in tensors.items():
            memory = _memory(tensor)
            index, _ = memories.setdefault(memory.data_ptr(), (len(memories), memory))
            places[place] = (index, _Layout.of(tensor))
        self._alive[number] = places
        self._shelf.put(number, [memory.clone() for _, memory in memories.values()])


class _Stretch(TorchDispatchMode):
    """Run one batch over one stretch: skip earlier operations and restore their stored results."""

    def __init__(
        self, replay: LayerwiseReplay, number: int, tensors: dict[Place, Tensor], begin: int, end: int,
        wanted: Collection[int], look: Callable[[int, int, ReplayedOp], None],
    ) -> None:  # fmt: skip
        super().__init__()  # type: ignore[no-untyped-call]
        self._replay, self._batch, self._layouts = replay, number, replay.forms[number]
        self._stored = tensors
        self._begin, self._end, self._wanted, self._look = begin, end, wanted, look
        self._next = self._number = 0
        self._results: dict[Place, weakref.ref[Tensor]] = {}
        if INPUT in tensors:
            self._results[INPUT] = weakref.ref(tensors[INPUT])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, n = kwargs or {}, self._next
        skipped, counts = n < self._replay.begun[self._batch], computes(func, (*args, *kwargs.values()))
        number = self._number if counts else -1
        self._next, self._number = n + 1, self._number + counts
        if number == self._begin and counts and not skipped:
            self._store_alive(n)
        out = self._skipped(n, func, args, kwargs) if skipped else func(*args, **kwargs)
        if not skipped:
            self._layouts[n:] = [tree_map_only(Tensor, _Layout.of, out)]
        if number in self._wanted and not skipped:
            self._look(self._batch, number, ReplayedOp(func, args, out))
        if counts and number == self._end:
            raise Reached
        if not skipped and not _writes(func):
            for i, leaf in enumerate(tree_leaves(out)):
                if isinstance(leaf, Tensor):
                    self._results[n, i] = weakref.ref(leaf)
        return out

    def _store_alive(self, n: int) -> None:
        self._replay.begun[self._batch] = n
        alive = {place: tensor for place, known in self._results.items() if (tensor := known()) is not None}
        own = self._replay.own
        self._replay.keep(
            self._batch, {p: t for p, t in alive.items() if t.numel() and t.untyped_storage().data_ptr() not in own}
        )

    def _skipped(self, n: int, func: Any, args: Any, kwargs: Any) -> Any:
        """Return the results of a skipped operation: stored tensors if alive, else placeholders of the same layout."""
        if torch.Tag.inplace_view in func.tags:  # it changes the shape of its argument, so it must run
            return func(*args, **kwargs)
        if _writes(func):
            known = {a.name: value for a, value in zip(func._schema.arguments, args, strict=False)} | kwargs
            return next(known[a.name] for a in func._schema.arguments if a.alias_info and a.alias_info.is_write)
        if (n, 0) not in self._stored and isinstance(self._layouts[n], _Layout) and _may_compute(func):
            return self._layouts[n].placeholder()
        view = any(result.alias_info is not None for result in func._schema.returns)
        leaves, spec = tree_flatten(func(*args, **kwargs) if view else self._layouts[n])
        for i, leaf in enumerate(leaves):
            if (n, i) in self._stored:
                leaves[i] = self._stored.pop((n, i))
                self._results[n, i] = weakref.ref(leaves[i])
            elif isinstance(leaf, _Layout):
                leaves[i] = leaf.placeholder()
        return tree_unflatten(leaves, spec)


@cache
def _writes(func: Any) -> bool:
    """Whether an operation returns the arguments that it wrote into."""
    aliases = [result.alias_info for result in func._schema.returns]
    return bool(aliases) and all(alias is not None and alias.is_write for alias in aliases)


class _ValueReads(TorchFunctionMode):
    """Detect whether a network reads values of tensors (see `READ_NUMBERS`)."""

    found = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found = self.found or func in READ_NUMBERS
        return func(*args, **(kwargs or {}))


def _reads_values(model: nn.Module, example: Tensor) -> bool:
    value_reads = _ValueReads()
    with torch.no_grad(), value_reads:
        model(example.clone())
    return value_reads.found


def _memory(tensor: Tensor) -> Tensor:
    """View all of a tensor's memory as bytes."""
    storage = tensor.untyped_storage()
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage, 0, (storage.nbytes(),), (1,))
