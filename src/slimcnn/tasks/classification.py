"""One class for an image."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from slimcnn.measuring.metric import Metric
from slimcnn.objectives import Terms, class_scores, cross_entropy
from slimcnn.tasks.task import Meter, Task, tasks


@tasks.add("classification", source="ImageNet, CIFAR")
class Classification(Task):
    """One class for an image; judged by top-1."""

    metric: ClassVar = Metric("top-1")
    batch: ClassVar = 128

    def scores(self, output: Any, x: Tensor) -> Tensor:
        """Return the logits (n, classes)."""
        return class_scores(output, len(x))

    def loss(self, scores: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Compute the cross entropy."""
        return F.cross_entropy(scores, targets, label_smoothing=label_smoothing)

    def labeled(self, label_smoothing: float = 0.0) -> Terms:
        """Return cross entropy."""
        return cross_entropy(label_smoothing)

    def hits(self, scores: Tensor, targets: Tensor, images: int) -> Tensor:
        """Count the images whose class has the highest score."""
        return (scores.argmax(1) == targets).sum()

    def as_targets(self, output: Any, x: Tensor) -> Tensor:
        """Return the classes with the highest score."""
        return self.scores(output, x).argmax(1)

    def meter(self, classes: int) -> Meter:
        """Count hits."""
        return Hits()


class Hits:
    """Counts the images whose class has the highest score.

    >>> import torch
    >>> hits = Hits()
    >>> hits.update(torch.eye(2), torch.zeros(2), torch.tensor([0, 0]))
    >>> hits.value()
    50.0
    """

    def __init__(self) -> None:
        self._right, self._images = 0, 0

    def update(self, output: Any, x: Tensor, y: Tensor) -> None:
        """Add a batch."""
        self._right += int((class_scores(output, len(x)).argmax(1) == y).sum())
        self._images += len(x)

    def value(self) -> float:
        """Return top-1 in percent."""
        return 100 * self._right / max(self._images, 1)
