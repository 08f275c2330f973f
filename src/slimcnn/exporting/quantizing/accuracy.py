"""Accuracy of a file, measured in its runtime, and the distance of its outputs from those in float."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slimcnn.errors import ExportError
from slimcnn.exporting.parity import AT_ONCE
from slimcnn.measuring.metric import Metric

VOID = 255
"""Pixels of a mask that are not counted."""
TOP1, PIXEL_ACCURACY = Metric("top-1"), Metric("pixel accuracy")


@dataclass(frozen=True, eq=False)
class Accuracy:
    """The value of a metric on samples, and each sample's share in it where the metric is their mean."""

    value: float
    n: int
    """Number of samples."""
    metric: Metric = TOP1
    hits: NDArray[np.float64] | None = None
    """For each sample 0 to 1; None if the metric is not a mean over the samples, such as mean IoU."""

    @staticmethod
    def of(hits: NDArray[Any], metric: Metric = TOP1) -> Accuracy:
        """Return the mean of shares (n,), in percent.

        >>> Accuracy.of(np.array([True, True, True, False])).value
        75.0
        """
        return Accuracy(100 * float(hits.mean()), len(hits), metric, hits.astype(np.float64))


class FileJudge(Protocol):
    """Measures networks on labeled samples, and how far apart the answers of two networks are."""

    @property
    def distance_name(self) -> str:
        """What `distance` is, with its unit."""

    def accuracy(self, network: nn.Module, x: Sequence[Tensor], y: Tensor) -> Accuracy:
        """Run a network on samples, a tensor for each of its inputs, and compare its answers with the labels y."""

    def distance(self, expected: Any, found: Any) -> float:
        """Return how far a network's answers for samples are from those of another; 0: equal."""


class ClassJudge:
    """Judges scores (n, classes) by top-1, and maps of scores (n, classes, h, w) by pixel accuracy."""

    distance_name = "KL divergence, nats"

    def accuracy(self, network: nn.Module, x: Sequence[Tensor], y: Tensor) -> Accuracy:
        """Return the accuracy, with the share of each sample."""
        hits, metric = [], TOP1
        for start in range(0, len(x[0]), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            found = judged(scores_of(network(*[one[part] for one in x])), y[part])
            assert found.hits is not None
            hits.append(found.hits)
            metric = found.metric
        return Accuracy.of(np.concatenate(hits), metric)

    def distance(self, expected: Any, found: Any) -> float:
        """Return the KL divergence of the class probabilities."""
        return divergence(scores_of(expected), scores_of(found))

    def answers(self, network: nn.Module, x: Sequence[Tensor]) -> Tensor:
        """Return the classes that a network predicts."""
        parts = [[one[start : start + AT_ONCE] for one in x] for start in range(0, len(x[0]), AT_ONCE)]
        return torch.cat([scores_of(network(*part)).argmax(1) for part in parts])


def scores_of(output: Any) -> Tensor:
    """Return the first output of a network.

    Raises:
        ExportError: it is neither scores (n, classes) nor maps (n, classes, h, w).
    """
    first = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(first, Tensor) or first.dim() not in (2, 4) or first.shape[1] < 2:
        shown = tuple(first.shape) if isinstance(first, Tensor) else f"a {type(first).__name__}"
        raise ExportError(
            f"int8 is judged by top-1 or pixel accuracy, but the file returns {shown} instead of scores (n, classes) "
            "or (n, classes, h, w): quantize the part of the network that classifies, or give judge="
        )
    return first


def judged(scores: Tensor, labels: Tensor) -> Accuracy:
    """Compare scores (n, classes) with labels (n,); scores that are not finite count as wrong.

    Of maps (n, classes, h, w), compare every pixel with masks (n, h, w), in which 255 is not counted.

    >>> judged(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 255]]])).value
    100.0
    """
    if scores.dim() == 4 and labels.shape[1:] != scores.shape[2:]:
        raise ExportError(
            f"maps of {tuple(scores.shape[2:])} pixels have masks of {tuple(labels.shape[1:])}: scale one of them"
        )
    right = (scores.argmax(1) == labels) & torch.isfinite(scores).all(1)
    if scores.dim() == 2:
        return Accuracy.of(right.numpy())
    counted = labels != VOID
    share = (right & counted).sum((1, 2)) / counted.sum((1, 2)).clamp(min=1)
    return Accuracy.of(share.double().numpy(), PIXEL_ACCURACY)


def loss_of(before: Accuracy, after: Accuracy) -> tuple[float, float | None]:
    """Return the accuracy lost, in the metric's unit, and its standard error, paired over the same samples.

    There is no standard error of a metric that is not a mean over the samples.

    >>> hits = np.arange(100) % 10 > 0
    >>> loss_of(Accuracy.of(hits), Accuracy.of(hits & (np.arange(100) != 1)))
    (1.0, 1.0)
    >>> loss_of(Accuracy(0.25, 8, Metric("error", "", False)), Accuracy(0.5, 8, Metric("error", "", False)))
    (0.25, None)
    """
    if before.hits is None or after.hits is None:
        return -before.metric.gain(before.value, after.value), None
    lost = before.hits - after.hits
    error = lost.std(ddof=1) / math.sqrt(len(lost)) if len(lost) > 1 else float("nan")
    return round(100 * float(lost.mean()), 9), round(100 * float(error), 9)


def divergence(expected: Tensor, found: Tensor) -> float:
    """Return the mean KL divergence of the class probabilities, in nats.

    It measures the effect of int8 on decisions, whatever the scale of the scores.

    >>> divergence(torch.tensor([[0.0, 1.0]]), torch.tensor([[5.0, 6.0]]))
    0.0
    """
    y, z = (each.double().log_softmax(1) for each in (expected, found))
    value = float((y.exp() * (y - z)).sum(1).mean())
    return value if math.isfinite(value) else math.inf
