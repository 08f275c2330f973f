"""Lifetimes of the tensors in one run, from the operation that creates them to the last one that uses them.

Only activations count: the network's input and everything computed from it. Weights, and tensors computed only from
weights, do not count. Tensors that share memory (views, results of in-place operations) count once. Unused results,
such as the indices of max pooling, do not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(eq=False)
class Lifetime:
    """The lifetime of one block of tensor memory; `first` and `last` number the operations of the run from 1."""

    first: int
    last: int
    elements: int
    element_bytes: int
    floating: bool
    activation: bool
    """Whether it is the network's input or computed from it."""
    used: bool = False
    """Whether an operation reads it or the network returns it."""

    def bytes(self, float_bytes: int = 4) -> int:
        """Return its size if a floating-point value takes `float_bytes`; integers keep their type."""
        return self.elements * (float_bytes if self.floating else self.element_bytes)


class Lifetimes:
    """The lifetimes of all tensors in a run; call `note` for every operation in order.

    >>> import torch
    >>> x = torch.ones(3)
    >>> run = Lifetimes(weights=[], inputs=[x])
    >>> y = x + 1
    >>> run.note([x], [y])
    >>> [(life.first, life.last, life.elements) for life in run.activations([y])]
    [(0, 1, 3), (1, 1, 3)]
    """

    def __init__(self, weights: Iterable[Tensor], inputs: Iterable[Tensor]) -> None:
        self._now = 0
        self._by_memory: dict[int, Lifetime] = {}
        self._storages: list[StorageWeakRef] = []
        """One per block: while it exists, PyTorch gives the block's number to no other, even after it is freed."""
        self._weights = dict.fromkeys(map(_memory, weights), Lifetime(0, 0, 0, 0, False, activation=False))
        """All weights share one lifetime, which does not count: none needs one of its own."""
        self._every: list[Lifetime] = []
        for tensor in inputs:
            self._begin(tensor, activation=True)

    def note(self, read: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        """Record an operation: the tensors among its arguments, and its results."""
        self._now += 1
        known = [self.of(tensor) for tensor in read]
        for life in known:
            life.last, life.used = self._now, True
        activation = any(life.activation for life in known)
        for tensor in made:
            if self._life(tensor) not in known:
                self._begin(tensor, activation)
            elif activation and _memory(tensor) not in self._weights:
                self.of(tensor).activation = True  # an activation was written into a constant

    def known(self, tensor: Tensor) -> Lifetime | None:
        """Return the lifetime of a tensor's memory; None if no operation has used it."""
        return self._by_memory.get(_memory(tensor))

    def of(self, tensor: Tensor) -> Lifetime:
        """Return the lifetime of a tensor's memory; the lifetime of an unknown tensor starts now."""
        life = self._life(tensor)
        return life if life is not None else self._begin(tensor, activation=False)

    def _life(self, tensor: Tensor) -> Lifetime | None:
        place = _memory(tensor)
        return self._by_memory.get(place) or self._weights.get(place)

    def activations(self, outputs: Iterable[Tensor]) -> list[Lifetime]:
        """List the used activations; the network's outputs live until the end of the run."""
        for tensor in outputs:
            life = self.of(tensor)
            life.last, life.used = self._now, True
        return [life for life in self._every if life.activation and life.used]

    def _begin(self, tensor: Tensor, activation: bool) -> Lifetime:
        elements, number_bytes = tensor.numel(), tensor.element_size()
        life = Lifetime(self._now, self._now, elements, number_bytes, tensor.is_floating_point(), activation)
        self._by_memory[_memory(tensor)] = life
        self._storages.append(StorageWeakRef(tensor.untyped_storage()))
        self._every.append(life)
        return life


def peak(lives: Iterable[Lifetime], float_bytes: int = 4) -> int:
    """Return the peak memory: the largest sum of bytes that are alive during one operation.

    >>> peak([Lifetime(0, 1, 3, 8, True, True), Lifetime(1, 2, 5, 8, True, True), Lifetime(2, 2, 2, 8, False, True)])
    36
    """
    changes: dict[int, int] = {}
    for life in lives:
        size = life.bytes(float_bytes)
        changes[life.first] = changes.get(life.first, 0) + size
        changes[life.last + 1] = changes.get(life.last + 1, 0) - size
    most = now = 0
    for time in sorted(changes):
        now += changes[time]
        most = max(most, now)
    return most


class LifetimeWatch(TorchDispatchMode):
    """Records every operation that runs inside the block."""

    def __init__(self, weights: Iterable[Tensor], inputs: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lifetimes = Lifetimes(weights, inputs)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.lifetimes.note(tensors_of((args, kwargs)), tensors_of(out))
        return out


def tensors_of(value: Any) -> list[Tensor]:
    """List the tensors in nested tuples, lists, dicts and dataclasses."""
    found: list[Tensor] = []
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            found += tensors_of([getattr(leaf, field.name) for field in fields(leaf)])
    return found


def _memory(tensor: Tensor) -> int:
    number: int = tensor.untyped_storage()._cdata
    return number
