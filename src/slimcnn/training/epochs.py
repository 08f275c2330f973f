"""What an epoch came to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from slimcnn.errors import RunError

GRADIENT = "gradient of "
"""What stands before a term's name where the size of its gradient is meant."""


@dataclass(frozen=True)
class Epoch:
    """The numbers of one epoch; those of training are means over its steps, with the weights as they were then."""

    epoch: int
    """From 1."""
    epochs: int
    """Of the whole run."""
    loss: float
    """Training loss: the sum of the terms."""
    terms: dict[str, float]
    """Each term of the objective."""
    train_top1: float
    """Percent, 0 to 100, on augmented images in training mode."""
    validation_top1: float
    """Percent, 0 to 100, in eval mode after the epoch."""
    validation_loss: float
    """Mean cross entropy, in nats."""
    learning_rate: float
    """Of the last step."""
    seconds: float
    """Training and validation."""
    images_per_second: float
    """Training only, over all processes."""
    gradients: dict[str, float] = field(default_factory=dict)
    """Where there are several terms, the L1 norm of each one's gradient with respect to an image's logits."""
    resumed: bool = False
    """The epoch was completed by an earlier call, and comes from its folder."""


@dataclass
class EpochSums:
    """The sums of an epoch under way."""

    terms: dict[str, float] = field(default_factory=dict)
    hits: float = 0.0
    images: float = 0.0
    seconds: float = 0.0

    def add(self, names: Sequence[str], row: Sequence[float]) -> None:
        """Take in one step: its terms, each times its images, then its hits and its images."""
        self.terms = self.terms or dict.fromkeys(names, 0.0)
        if list(self.terms) != list(names):
            there, here = ", ".join(self.terms), ", ".join(names)
            raise RunError(f"the loss consists of {here}, but this epoch began with {there}: use the same objective")
        for name, value in zip(names, row, strict=False):
            self.terms[name] += value
        self.hits += row[-2]
        self.images += row[-1]

    def data(self) -> dict[str, Any]:
        """The sums as plain data, for the state file."""
        return asdict(self)


def first_nonfinite(names: Sequence[str], row: Sequence[float]) -> str | None:
    """The first term that is not finite, with its value.

    >>> first_nonfinite(["cross_entropy", "kd"], [3.0, float("nan"), 2, 2])
    "'kd' is nan"
    """
    for name, value in zip(names, row, strict=False):
        if not math.isfinite(value):
            return f"{name!r} is {value}"
    return None
