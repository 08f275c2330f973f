"""The metrics of an epoch, and the sums they are computed from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from slimcnn.errors import RunError

GRADIENT = "gradient of "
"""Name prefix that marks the size of a term's gradient."""


@dataclass(frozen=True)
class Epoch:
    """The metrics of one epoch; training metrics are means over its steps, with the weights at each step."""

    epoch: int
    """From 1."""
    epochs: int
    """Number of epochs of the run."""
    loss: float
    """Training loss: the sum of the terms."""
    terms: dict[str, float]
    """The value of each term of the objective."""
    train_top1: float
    """Percent, 0 to 100, on augmented images in training mode."""
    validation_top1: float
    """Percent, 0 to 100, in eval mode after the epoch; or what the metric of the user returned; nan: not validated."""
    validation_loss: float
    """Mean cross entropy, in nats."""
    learning_rate: float
    """The learning rate of the last step."""
    seconds: float
    """Training and validation."""
    images_per_second: float
    """Training only, over all processes."""
    kept: int
    """The epoch whose weights a training that ended here would keep; 0: those before the first step."""
    kept_top1: float
    """The validation top-1 of these weights, percent."""
    gradients: dict[str, float] = field(default_factory=dict)
    """If there are several terms: the L1 norm of each term's gradient with respect to an image's logits."""
    resumed: bool = False
    """Whether an earlier call completed the epoch, so that it was read from the folder."""


@dataclass
class EpochSums:
    """Running sums of the current epoch."""

    terms: dict[str, float] = field(default_factory=dict)
    hits: float = 0.0
    images: float = 0.0
    seconds: float = 0.0

    def add(self, names: Sequence[str], row: Sequence[float]) -> None:
        """Add one step: its terms times its images, then its hits and its number of images."""
        self.terms = self.terms or dict.fromkeys(names, 0.0)
        if list(self.terms) != list(names):
            old, new = ", ".join(self.terms), ", ".join(names)
            raise RunError(f"the loss consists of {new}, but this epoch began with {old}: use the same objective")
        for name, value in zip(names, row, strict=False):
            self.terms[name] += value
        self.hits += row[-2]
        self.images += row[-1]

    def data(self) -> dict[str, Any]:
        """Return the sums as plain data, for the state file."""
        return asdict(self)


def first_nonfinite(names: Sequence[str], row: Sequence[float]) -> str | None:
    """Return the first non-finite term with its value, or None.

    >>> first_nonfinite(["cross_entropy", "kd"], [3.0, float("nan"), 2, 2])
    "'kd' is nan"
    """
    for name, value in zip(names, row, strict=False):
        if not math.isfinite(value):
            return f"{name!r} is {value}"
    return None
