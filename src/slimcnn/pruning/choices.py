"""Let two runs make the same choices: which boxes are kept, in which order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ORDERING = ("aten::topk", "aten::sort")
"""Operations that return values and their places, along their dimension."""

CHOOSING = (
    "aten::nonzero", "aten::argsort", "torchvision::nms", "aten::gt", "aten::ge", "aten::lt", "aten::le", "aten::eq",
    "aten::ne", "aten::max", "aten::argmax",
)  # fmt: skip
"""Operations whose results are places, or comparisons."""


@dataclass(frozen=True)
class _Choice:
    """What one run chose, and from what."""

    operation: str
    given: Sequence[Any]
    made: Tensor


class SameChoices(TorchDispatchMode):
    """Record the choices of one run by value, and repeat them in the next, where it chooses from equal values.

    Equal scores (of padding, or of boxes with the same features) are ordered by their last bits, in which two networks
    that compute the same function differ; so does the number of boxes that remain. With the same choices, everything
    that follows is comparable. A choice is never repeated from values that differ by more than rounding: that would
    hide a wrong network, and places in one map need not exist in another.

    Args:
        tolerance: largest relative difference of values that counts as equal.

    >>> choices = SameChoices(tolerance=1e-6)
    >>> with choices:
    ...     first = torch.tensor([1.0, 1.0]).topk(1).indices
    >>> with choices.repeated():
    ...     torch.tensor([1.0, 1.0 + 1e-7]).topk(1).indices.equal(first)
    True
    """

    def __init__(self, tolerance: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tolerance = tolerance
        self._made: list[_Choice] = []
        self._next: int | None = None

    def repeated(self) -> SameChoices:
        """Return the mode for a run that repeats the choices."""
        self._next = 0
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out, name = func(*args, **kwargs), func._schema.name
        if name in ORDERING:
            places = out[1]
            known = self._choice(_Choice(name, tree_leaves((args, kwargs)), places))
            if known is places:
                return out
            return args[0].gather(_dimension(name, args, kwargs), known), known
        if name in CHOOSING and isinstance(out, Tensor) and out.dtype in (torch.bool, torch.int64):
            return self._choice(_Choice(name, tree_leaves((args, kwargs)), out))
        return out

    def _choice(self, own: _Choice) -> Tensor:
        """Record a choice, or return the one that was recorded at this place of the other run."""
        if self._next is None:
            given = [value.clone() if isinstance(value, Tensor) else value for value in own.given]
            self._made.append(_Choice(own.operation, given, own.made.clone()))
            return own.made
        place, self._next = self._next, self._next + 1
        if place >= len(self._made) or not _chooses_alike(self._made[place], own, self._tolerance):
            return own.made
        return self._made[place].made.clone()


def _chooses_alike(one: _Choice, two: _Choice, tolerance: float) -> bool:
    if one.operation != two.operation or len(one.given) != len(two.given):
        return False
    return all(_alike(x, y, tolerance) for x, y in zip(one.given, two.given, strict=True))


def _alike(one: Any, two: Any, tolerance: float) -> bool:
    if not (isinstance(one, Tensor) and isinstance(two, Tensor)):
        numbers = isinstance(one, float) and isinstance(two, float)
        return math.isclose(one, two, rel_tol=tolerance) if numbers else type(one) is type(two) and one == two
    if one.shape != two.shape or one.dtype != two.dtype:
        return False
    if not one.is_floating_point():
        return one.equal(two)
    one, two = one.double(), two.double()
    largest = one.nan_to_num(0.0, 0.0, 0.0).abs().max() if one.numel() else 0.0
    return torch.allclose(one, two, rtol=0.0, atol=tolerance * float(largest), equal_nan=True)


def _dimension(name: str, args: Any, kwargs: dict[str, Any]) -> int:
    place = 2 if name == "aten::topk" else 1
    given = args[place] if len(args) > place else kwargs.get("dim", -1)
    return int(given) if not isinstance(given, bool) else int(kwargs.get("dim", -1))
