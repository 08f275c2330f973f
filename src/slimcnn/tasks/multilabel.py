"""Any number of classes for an image."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from slimcnn.measuring.metric import Metric
from slimcnn.objectives import class_scores
from slimcnn.tasks.metrics import TorchMetric, torchmetric
from slimcnn.tasks.soft import Soft
from slimcnn.tasks.task import Meter, tasks


@tasks.add("multilabel", source="binary cross entropy for every class")
class Multilabel(Soft):
    """Any number of classes for an image, targets (n, classes) of 0 and 1; judged by mean average precision."""

    metric: ClassVar = Metric("mean average precision")
    batch: ClassVar = 128
    loss_name: ClassVar = "binary_cross_entropy"

    def scores(self, output: Any, x: Tensor) -> Tensor:
        """Return the logits (n, classes)."""
        return class_scores(output, len(x))

    def loss(self, scores: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Compute the binary cross entropy, a mean over images and classes."""
        return F.binary_cross_entropy_with_logits(scores, targets.float() * (1 - label_smoothing) + label_smoothing / 2)

    def hits(self, scores: Tensor, targets: Tensor, images: int) -> Tensor:
        """Return the share of right decisions, times the number of images."""
        return ((scores > 0) == (targets > 0)).float().mean() * images

    def soft_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Compute T² times the binary cross entropy with the teacher's probabilities."""
        aims = torch.sigmoid(teacher.float() / temperature)
        return F.binary_cross_entropy_with_logits(student.float() / temperature, aims) * temperature**2

    def meter(self, classes: int) -> Meter:
        """Compute the average precision of every class; the mean."""
        found = torchmetric("classification.MultilabelAveragePrecision", classes, average="macro")
        return TorchMetric(self.metric, found, lambda output, x, y: (self.scores(output, x), y.int()), 100.0)
