"""Run a network over many batches a stretch at a time, computing every operation only once for each batch.

Layers are solved in the order of the network, each on the outputs of those solved before it. Running the network
anew for every layer would cost the square of its depth. So the tensors that are alive at an operation are put on a
shelf, and the next stretch begins there: what lies before is walked through with stand-ins that nobody computes.

Operations are numbered by `computes`: views, copies and constants do not count, since PyTorch makes more or fewer of
them for batches of other sizes.
"""

from __future__ import annotations

import shutil
import tempfile
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

from slimcnn.graph.operations import name_of, operation

INPUT = (-1, 0)
"""The place of the batch itself among the results of operations."""

Place = tuple[int, int]
"""(place of the operation among all, number of its result)."""

READ_NUMBERS = {Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__}
"""What reads a tensor's numbers unseen: a network that does so cannot be walked through with stand-ins."""


def computes(func: Any, arguments: Iterable[Any]) -> bool:
    """Ask whether an operation counts: it computes something from tensors, and is no view and no copy.

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
    """One operation of a run: what went in and what came out."""

    func: Any
    args: tuple[Any, ...]
    out: Any


class Reached(BaseException):
    """The run came to the end of its stretch."""


@dataclass(frozen=True)
class _Form:
    """What a tensor looks like from outside."""

    size: torch.Size
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: torch.device
    conjugate: bool = False

    @classmethod
    def of(cls, tensor: Tensor) -> _Form:
        offset = int(tensor.storage_offset())
        return cls(tensor.shape, tensor.stride(), offset, tensor.dtype, tensor.device, tensor.is_conj())

    def stand_in(self) -> Tensor:
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=self.device)

    def on(self, memory: Tensor) -> Tensor:
        tensor = torch.empty(0, dtype=self.dtype, device=memory.device)
        tensor.set_(memory.untyped_storage(), self.offset, self.size, self.stride)
        return tensor.conj() if self.conjugate else tensor


class Shelf:
    """Keeps lists of tensors by number: in memory up to a limit, beyond it in files."""

    def __init__(self, limit: int = 2**30) -> None:
        self.limit = limit
        self._held: dict[int, list[Tensor]] = {}
        self._folder: Path | None = None
        self._sweep: Callable[[], object] = lambda: None

    def put(self, number: int, tensors: list[Tensor]) -> None:
        """Keep tensors in place of those that had this number."""
        self._held.pop(number, None)
        if sum(t.nbytes for held in (*self._held.values(), tensors) for t in held) <= self.limit:
            self._held[number] = tensors
            return
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="slimcnn-"))
            self._sweep = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        torch.save(tensors, self._file(number))

    def take(self, number: int) -> list[Tensor]:
        """Give copies of what was put there."""
        if number in self._held:
            return [tensor.clone() for tensor in self._held[number]]
        found: list[Tensor] = torch.load(self._file(number), weights_only=True)
        return found

    def close(self) -> None:
        """Forget everything."""
        self._held.clear()
        self._sweep()

    def _file(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{number}.pt"


class LayerwiseReplay:
    """Many batches on their way through one network; close it afterwards.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).eval()
    >>> seen = []
    >>> with LayerwiseReplay(net, [torch.ones(1, 2)]) as way:
    ...     way.go(begin=1, end=1, wanted=[1], look=lambda batch, n, operation: seen.append((batch, n)))
    >>> seen
    [(0, 1)]
    """

    def __init__(self, model: nn.Module, batches: Sequence[Tensor], limit: int = 2**30) -> None:
        self.model = model
        self.begun = [0 for _ in batches]
        """For every batch, the place of the operation at which the next stretch begins."""
        self.own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
        self._shelf = Shelf(limit)
        self._inputs = [_Form.of(batch.clone()) for batch in batches]
        self._alive: list[dict[Place, tuple[int, _Form]]] = [{INPUT: (0, form)} for form in self._inputs]
        self.forms: list[list[Any]] = [[] for _ in batches]
        """For every batch, the results of every operation, with forms in place of tensors."""
        self._whole = bool(batches) and _reads_numbers(model, batches[0][:1])
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
        """Run every batch on to operation `end`, and let the next stretch begin with operation `begin`.

        Or only the batches with these numbers; every batch goes its own way. `look` is called with the number of the
        batch, the number of the operation and the operation, for those of the `wanted` operations that are computed:
        from where the last stretch let this one begin.
        """
        for number in range(len(self._inputs)) if batches is None else batches:
            form, memories = self._inputs[number], self._shelf.take(number)
            tensors = {place: here.on(memories[i]) for place, (i, here) in self._alive[number].items()}
            walk = _Walk(self, number, tensors, -1 if self._whole else begin, end, wanted, look)
            with suppress(Reached), torch.no_grad(), walk:
                self.model(tensors.pop(INPUT) if INPUT in tensors else form.stand_in())

    def keep(self, number: int, tensors: dict[Place, Tensor]) -> None:
        """Put what is alive on the shelf, tensors that share memory together."""
        memories: dict[int, tuple[int, Tensor]] = {}
        places = {}
        for place, tensor in tensors.items():
            memory = _memory(tensor)
            index, _ = memories.setdefault(memory.data_ptr(), (len(memories), memory))
            places[place] = (index, _Form.of(tensor))
        self._alive[number] = places
        self._shelf.put(number, [memory.clone() for _, memory in memories.values()])


class _Walk(TorchDispatchMode):
    """One batch on one stretch: what lies before it is not computed, what is alive there is put in."""

    def __init__(
        self, way: LayerwiseReplay, number: int, tensors: dict[Place, Tensor], begin: int, end: int,
        wanted: Collection[int], look: Callable[[int, int, ReplayedOp], None],
    ) -> None:  # fmt: skip
        super().__init__()  # type: ignore[no-untyped-call]
        self._way, self._batch, self._forms = way, number, way.forms[number]
        self._given = tensors
        self._begin, self._end, self._wanted, self._look = begin, end, wanted, look
        self._next = self._number = 0
        self._made: dict[Place, weakref.ref[Tensor]] = {}
        if INPUT in tensors:
            self._made[INPUT] = weakref.ref(tensors[INPUT])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, n = kwargs or {}, self._next
        passed, counts = n < self._way.begun[self._batch], computes(func, (*args, *kwargs.values()))
        number = self._number if counts else -1
        self._next, self._number = n + 1, self._number + counts
        if number == self._begin and counts and not passed:
            self._put_on_shelf(n)
        out = self._passed(n, func, args, kwargs) if passed else func(*args, **kwargs)
        if not passed:
            self._forms[n:] = [tree_map_only(Tensor, _Form.of, out)]
        if number in self._wanted and not passed:
            self._look(self._batch, number, ReplayedOp(func, args, out))
        if counts and number == self._end:
            raise Reached
        if not passed and not _writes(func):
            for i, leaf in enumerate(tree_leaves(out)):
                if isinstance(leaf, Tensor):
                    self._made[n, i] = weakref.ref(leaf)
        return out

    def _put_on_shelf(self, n: int) -> None:
        self._way.begun[self._batch] = n
        made = {place: tensor for place, known in self._made.items() if (tensor := known()) is not None}
        own = self._way.own
        self._way.keep(
            self._batch, {p: t for p, t in made.items() if t.numel() and t.untyped_storage().data_ptr() not in own}
        )

    def _passed(self, n: int, func: Any, args: Any, kwargs: Any) -> Any:
        """Give what an operation returned when it was computed: what is alive, else something of that form."""
        if torch.Tag.inplace_view in func.tags:  # it changes the shape, which nothing else knows of
            return func(*args, **kwargs)
        if _writes(func):
            known = {a.name: value for a, value in zip(func._schema.arguments, args, strict=False)} | kwargs
            return next(known[a.name] for a in func._schema.arguments if a.alias_info and a.alias_info.is_write)
        if (n, 0) not in self._given and isinstance(self._forms[n], _Form) and _may_compute(func):
            return self._forms[n].stand_in()
        view = any(result.alias_info is not None for result in func._schema.returns)
        leaves, form = tree_flatten(func(*args, **kwargs) if view else self._forms[n])
        for i, leaf in enumerate(leaves):
            if (n, i) in self._given:
                leaves[i] = self._given.pop((n, i))
                self._made[n, i] = weakref.ref(leaves[i])
            elif isinstance(leaf, _Form):
                leaves[i] = leaf.stand_in()
        return tree_unflatten(leaves, form)


@cache
def _writes(func: Any) -> bool:
    """Ask whether an operation returns what it has written into."""
    aliases = [result.alias_info for result in func._schema.returns]
    return bool(aliases) and all(alias is not None and alias.is_write for alias in aliases)


class _Asked(TorchFunctionMode):
    """Notices that a network reads numbers."""

    found = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found = self.found or func in READ_NUMBERS
        return func(*args, **(kwargs or {}))


def _reads_numbers(model: nn.Module, example: Tensor) -> bool:
    asked = _Asked()
    with torch.no_grad(), asked:
        model(example.clone())
    return asked.found


def _memory(tensor: Tensor) -> Tensor:
    """See all of a tensor's memory as bytes."""
    storage = tensor.untyped_storage()
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage, 0, (storage.nbytes(),), (1,))
