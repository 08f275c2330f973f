"""Judge a network by its task's metric, or by a metric of the user."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import nn

from slimcnn.datasets import AnyLoader, Dataset, Examples, batches, examples_of, given_dataset
from slimcnn.datasets.given import GivenBatches
from slimcnn.errors import DataError, ModelError
from slimcnn.tasks import Metric, Task, task_of
from slimcnn.tasks.task import answer
from slimcnn.training.evaluation import evaluate, evaluating, scores
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


MetricFunction: TypeAlias = Callable[[nn.Module], float]
"""Measures a network; higher is better. It is called with the network in eval mode."""


@dataclass(frozen=True)
class NamedMetric:
    """A `MetricFunction` whose name, unit and direction are known.

    >>> NamedMetric(Metric("weights", unit="", higher_is_better=False), lambda net: 1.0)(nn.ReLU())
    1.0
    """

    metric: Metric
    measure: MetricFunction

    def __call__(self, model: nn.Module) -> float:
        """Measure a network in eval mode."""
        return self.measure(model)


def metric_of(validation: object, task: Task) -> Metric:
    """Return the metric by which a training keeps its best epoch."""
    if isinstance(validation, NamedMetric):
        return validation.metric
    return Metric("metric", unit="") if is_metric(validation) else task.metric


Judge: TypeAlias = Callable[[nn.Module], Judged]


def data_to_fit(
    model: nn.Module, data: Dataset | AnyLoader, validation: AnyLoader | MetricFunction | None, device: torch.device
) -> Dataset:
    """Return the dataset that a training uses; the batches of loaders become one."""
    batches = None if validation is None or is_metric(validation) else validation
    if isinstance(data, Dataset):
        return data if batches is None else replace(data, validation=examples_of(batches))  # type: ignore[arg-type]
    x, _ = next(GivenBatches(data).feed(device), (None, None))
    if x is None:
        raise DataError("the loader gives no batch: it needs at least one")
    with evaluating(model, device), torch.no_grad():
        outputs = scores(model, x[:1], 1).shape[1]
    return given_dataset(data, batches, outputs)  # type: ignore[arg-type]


def judge_of(dataset: Dataset, validation: object, batch_size: int, fabric: Fabric) -> Judge | None:
    """Return how a training validates its network: on images, by a metric, or, without either, None."""
    if is_metric(validation):
        return lambda model: _measured(validation, model, fabric.device)
    if validation is None and isinstance(dataset.train, GivenBatches):
        return None
    return lambda model: judge(model, dataset.validation, dataset, batch_size=batch_size, fabric=fabric)


def is_metric(validation: object) -> bool:
    """Return whether this is a function of a network, not a loader."""
    return callable(validation) and not hasattr(validation, "__iter__")


def _measured(metric: object, model: nn.Module, device: torch.device) -> Judged:
    with evaluating(model, device), torch.no_grad():
        found = metric(model)  # type: ignore[operator]
    try:
        value = float(found)
    except (TypeError, ValueError):
        raise DataError(f"the metric returned a {type(found).__name__}: return a number, higher is better") from None
    if not math.isfinite(value):
        raise DataError(f"the metric returned {value}: return a finite number, higher is better")
    return Judged(score=value, loss=math.nan, n=0)
