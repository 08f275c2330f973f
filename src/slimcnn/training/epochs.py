"""The metrics of an epoch, and the sums they are computed from."""

from __future__ import annotations

import math
import re
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
    train_accuracy: float
    """Percent, 0 to 100, of the answers that are right on augmented images in training mode: top-1 for classification;
    nan: the task's answers are neither right nor wrong."""
    validation_metric: float
    """In eval mode after the epoch: the task's metric in its unit (top-1 in percent for classification), or what the
    metric of the user returned; nan: not validated."""
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
    kept_metric: float
    """`validation_metric` of these weights."""
    gradients: dict[str, float] = field(default_factory=dict)
    """If there are several terms: the L1 norm of each term's gradient with respect to an image's logits."""
    resumed: bool = False
    """Whether an earlier call completed the epoch, so that it was read from the folder."""

    def scalars(self, metric: str = "top-1") -> dict[str, float]:
        """Return the metrics as numbers by name, for a logger; `metric` names what is measured on validation images.

        What was not measured is left out.

        >>> epoch = Epoch(1, 2, 0.5, {"kd": 0.5}, math.nan, 88.0, math.nan, 0.1, 2.0, 500.0, 1, 88.0)
        >>> list(epoch.scalars("mean IoU"))
        ['epoch', 'loss', 'term_kd', 'validation_mean_iou', 'learning_rate', 'seconds', 'images_per_second']
        """
        found: dict[str, float] = {
            "epoch": self.epoch, "loss": self.loss, **{f"term_{name}": value for name, value in self.terms.items()},
            "train_top1" if metric == "top-1" else "train_accuracy": self.train_accuracy,
            f"validation_{_plain(metric)}": self.validation_metric,
            "validation_loss": self.validation_loss, "learning_rate": self.learning_rate, "seconds": self.seconds,
            "images_per_second": self.images_per_second,
        }  # fmt: skip
        return {name: value for name, value in found.items() if not math.isnan(value)}


def _plain(name: str) -> str:
    """Return a name with letters, digits and underscores only, which every logger accepts."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower().replace("-", ""))


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
