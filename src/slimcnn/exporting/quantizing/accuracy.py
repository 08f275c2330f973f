"""Accuracy of a file, measured in its runtime."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from slimcnn.errors import ExportError
from slimcnn.exporting.parity import AT_ONCE, Array
from slimcnn.exporting.quantizing.engine import Rows
from slimcnn.exporting.runtimes import RUNTIMES, open_in

VOID = 255
"""Pixels of a mask that are not counted."""


@dataclass(frozen=True, eq=False)
class Accuracy:
    """Which samples a file classifies correctly; of maps of scores, the share of right pixels of each sample."""

    hits: NDArray[np.bool_] | NDArray[np.float64]
    name: str = "top-1"
    """What it is called; of maps of scores, pixel accuracy."""

    @property
    def percent(self) -> float:
        """The accuracy, 0 to 100."""
        return 100 * float(self.hits.mean())


def scores_in(runtime: str, path: Path, samples: Rows, batch: int | None = None, threads: int | None = None) -> Array:
    """Run a file on samples, `batch` per call (None: any number); return scores (n, classes) or maps.

    Raises:
        ExportError: the runtime cannot run the file, or its first output is neither scores (n, classes) nor
            maps (n, classes, h, w).
    """
    predict = open_in(runtime, path, threads).predict
    parts, at_once = [], batch or AT_ONCE
    for start in range(0, len(samples[0]), at_once):
        found = predict(*[one[start : start + at_once] for one in samples])
        first = found[0] if isinstance(found, tuple) else found
        if first.ndim not in (2, 4) or first.shape[1] < 2:
            raise ExportError(
                f"int8 is judged by top-1 or pixel accuracy, but {path.name} in {RUNTIMES[runtime].title} returns "
                f"{first.shape} instead of scores (n, classes) or (n, classes, h, w): quantize the part of the network "
                "that classifies"
            )
        parts.append(first)
    return np.concatenate(parts)


def judged(scores: Array, labels: Array) -> Accuracy:
    """Compare scores (n, classes) with labels (n,); scores that are not finite count as wrong.

    Of maps (n, classes, h, w), compare every pixel with masks (n, h, w), in which 255 is not counted.

    >>> judged(np.zeros((1, 2, 1, 2)), np.array([[[0, 255]]])).percent
    100.0
    """
    if scores.ndim == 4:
        if labels.shape[1:] != scores.shape[2:]:
            raise ExportError(f"maps of {scores.shape[2:]} pixels have masks of {labels.shape[1:]}: scale one of them")
        right = (scores.argmax(1) == labels) & np.isfinite(scores).all(1)
        counted = labels != VOID
        return Accuracy((right & counted).sum((1, 2)) / np.maximum(counted.sum((1, 2)), 1), "pixel accuracy")
    return Accuracy((scores.argmax(1) == labels) & np.isfinite(scores).all(1))


def loss_of(before: Accuracy, after: Accuracy) -> tuple[float, float]:
    """Return the accuracy lost, in percentage points, and its standard error, paired over the same samples.

    >>> hits = np.arange(100) % 10 > 0
    >>> loss_of(Accuracy(hits), Accuracy(hits & (np.arange(100) != 1)))
    (1.0, 1.0)
    """
    lost = before.hits.astype(float) - after.hits.astype(float)
    error = lost.std(ddof=1) / math.sqrt(len(lost)) if len(lost) > 1 else float("nan")
    return round(100 * float(lost.mean()), 9), round(100 * float(error), 9)


def divergence(expected: Array, found: Array) -> float:
    """Return the mean KL divergence of the class probabilities, in nats.

    It measures the effect of int8 on decisions, whatever the scale of the scores.

    >>> divergence(np.array([[0.0, 1.0]]), np.array([[5.0, 6.0]]))
    0.0
    """
    y, z = (torch.from_numpy(np.asarray(each, np.float64)).log_softmax(1) for each in (expected, found))
    value = float((y.exp() * (y - z)).sum(1).mean())
    return value if math.isfinite(value) else math.inf
