"""Numbers for an image."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from slimcnn.measuring.metric import Metric
from slimcnn.objectives import class_scores
from slimcnn.tasks.metrics import TorchMetric, torchmetric
from slimcnn.tasks.soft import Soft
from slimcnn.tasks.task import Meter, tasks


@tasks.add("regression", source="mean squared error")
class Regression(Soft):
    """Numbers for an image, targets (n, k); judged by the mean absolute error."""

    metric: ClassVar = Metric("mean absolute error", unit="", higher_is_better=False)
    batch: ClassVar = 128
    loss_name: ClassVar = "squared_error"

    def scores(self, output: Any, x: Tensor) -> Tensor:
        """Return the numbers (n, k)."""
        return class_scores(output, len(x))

    def loss(self, scores: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Compute the mean squared error."""
        return F.mse_loss(scores, targets.float())

    def hits(self, scores: Tensor, targets: Tensor, images: int) -> Tensor:
        """Return NaN: nothing is right or wrong."""
        return scores.new_full((), float("nan"))

    def soft_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Compute the mean squared error to the teacher's numbers."""
        return F.mse_loss(student.float(), teacher.float())

    def as_targets(self, output: Any, x: Tensor) -> Tensor:
        """Return the numbers."""
        return self.scores(output, x)

    def meter(self, classes: int) -> Meter:
        """Compute the mean absolute error."""
        found = torchmetric("MeanAbsoluteError")
        return TorchMetric(self.metric, found, lambda output, x, y: (self.scores(output, x), y.float()))
