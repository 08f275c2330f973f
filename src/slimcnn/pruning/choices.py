"""Let two runs make the same choices: which boxes are kept, in which order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ORDERING = ("aten::topk", "aten::sort")
"""Operations that return values and their places, along their dimension."""

CHOOSING = (
    "aten::nonzero", "aten::argsort", "torchvision::nms", "aten::gt", "aten::ge", "aten::lt", "aten::le", "aten::eq",
    "aten::ne", "aten::max", "aten::argmax",
)  # fmt: skip
"""Operations whose results are places, or comparisons."""


class SameChoices(TorchDispatchMode):
    """Record the choices of one run by value, and repeat them in the next.

    Equal scores (of padding, say) are ordered by their last bits, in which two networks that compute the same function
    differ. With the same choices, everything that follows is comparable; the scores themselves are compared too.

    >>> choices = SameChoices()
    >>> with choices:
    ...     first = torch.tensor([1.0, 1.0]).topk(1).indices
    >>> with choices.repeated():
    ...     torch.tensor([1.0, 1.0 + 1e-7]).topk(1).indices.equal(first)
    True
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._made: list[tuple[str, Any]] = []
        self._next: int | None = None

    def repeated(self) -> SameChoices:
        """Return the mode for a run that repeats the choices."""
        self._next = 0
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, name = func(*args, **(kwargs or {})), func._schema.name
        if name in ORDERING:
            places = out[1]
            known = self._choice(name, places)
            if known is places:
                return out
            return args[0].gather(_dimension(name, args, kwargs or {}), known), known
        if name in CHOOSING and isinstance(out, Tensor) and out.dtype in (torch.bool, torch.int64):
            return self._choice(name, out)
        return out

    def _choice(self, name: str, made: Tensor) -> Tensor:
        """Record a choice, or return the one that was recorded at this place of the other run."""
        if self._next is None:
            self._made.append((name, made.clone()))
            return made
        place, self._next = self._next, self._next + 1
        known = self._made[place] if place < len(self._made) else ("", made)
        fits = known[0] == name and known[1].dtype == made.dtype and known[1].shape == made.shape
        return known[1].clone() if fits else made


def _dimension(name: str, args: Any, kwargs: dict[str, Any]) -> int:
    place = 2 if name == "aten::topk" else 1
    given = args[place] if len(args) > place else kwargs.get("dim", -1)
    return int(given) if not isinstance(given, bool) else int(kwargs.get("dim", -1))
