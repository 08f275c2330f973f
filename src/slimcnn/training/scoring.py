"""Judge a network by its task's metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from slimcnn.datasets import Dataset, Examples, batches
from slimcnn.errors import DataError, ModelError
from slimcnn.objectives import Loss
from slimcnn.tasks import Task, task_of
from slimcnn.tasks.task import answer
from slimcnn.training.evaluation import evaluate, evaluating
from slimcnn.training.processes import best_device, summed

if TYPE_CHECKING:
    from lightning_fabric import Fabric

AT_ONCE = 16
"""Images in a batch, where every image has a target for each pixel or box."""


@dataclass(frozen=True)
class Judged:
    """The metric and the loss of a network on images."""

    score: float
    """The task's metric, in its unit: top-1 in percent for classification."""
    loss: float
    """Mean loss against the labels; NaN if the task computes it in training mode only."""
    n: int
    """Number of images."""


def judge(
    model: nn.Module,
    images: Examples,
    data: Dataset,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    fabric: Fabric | None = None,
) -> Judged:
    """Compute the metric of a dataset's task on some of its images, in float32, without augmentation.

    Runs in eval mode on `device` (default: `best_device`), then restores modes and device; see `evaluate`.

    Raises:
        DataError: no images, or the metric is not a number; ModelError: the network does not fit them, or its scores
            are not finite.

    >>> from slimcnn.datasets import load_dataset
    >>> digits = load_dataset("digits")
    >>> judge(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digits.test, digits).n == len(digits.test)
    True
    """
    if data.task == "classification":
        found = evaluate(model, images, data.normalization, batch_size=batch_size, device=device, fabric=fabric)
        return Judged(found.top1, found.loss, found.n)
    if not len(images):
        raise DataError("there are no images to evaluate on")
    task, place = task_of(data), fabric.device if fabric else torch.device(device) if device else best_device()
    rank, world = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    size = min(batch_size, AT_ONCE)
    meter, total = task.meter(len(data.classes)), torch.zeros(2, dtype=torch.float64)
    with evaluating(model, place), torch.no_grad():
        share = batches(images, size, normalization=data.normalization, rank=rank, world=world, device=place)
        for x, y in share:
            output = answer(model, x, data.name)
            meter.update(output, x, y)
            total += torch.tensor([_loss(task, output, x, y) * len(x), len(x)], dtype=torch.float64)
    if fabric:
        total = summed(fabric, total)
    return Judged(meter.value(), float(total[0] / total[1]), len(images))


def _loss(task: Task, output: object, x: torch.Tensor, y: torch.Tensor) -> float:
    if not task.loss_of_answers:
        return float("nan")
    scores = task.scores(output, x).float()
    if not bool(torch.isfinite(scores).all()):
        raise ModelError(f"the network's scores are not finite for a batch of {len(x)} images: check its weights")
    return float(task.loss(scores, task.targets(y)))


def hits_of(task: Task, loss: Loss, y: torch.Tensor, images: int) -> torch.Tensor:
    """Return what counts as right in a training step, in images."""
    return task.hits(loss.logits.detach(), task.targets(y), images)
