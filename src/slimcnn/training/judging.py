"""The number by which a training keeps the best epoch: validation top-1, or a metric of the user."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import nn

from slimcnn.datasets import AnyLoader, Dataset, examples_of, given_dataset
from slimcnn.datasets.given import GivenBatches
from slimcnn.errors import DataError
from slimcnn.training.evaluation import Evaluation, evaluate, evaluating, scores
from slimcnn.training.scoring import judge

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MetricFunction: TypeAlias = Callable[[nn.Module], float]
"""Measures a network; higher is better. It is called with the network in eval mode."""

Judge: TypeAlias = Callable[[nn.Module], Evaluation]


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
    if dataset.task != "classification":
        return lambda model: _by_task(model, dataset, batch_size, fabric)
    return lambda model: evaluate(
        model, dataset.validation, dataset.normalization, batch_size=batch_size, fabric=fabric
    )


def _by_task(model: nn.Module, dataset: Dataset, batch_size: int, fabric: Fabric) -> Evaluation:
    """Return the metric of the dataset's task in the place of top-1."""
    found = judge(model, dataset.validation, dataset, batch_size=batch_size, fabric=fabric)
    return Evaluation(top1=found.score, top5=math.nan, loss=found.loss, n=found.n)


def is_metric(validation: object) -> bool:
    """Return whether this is a function of a network, not a loader."""
    return callable(validation) and not hasattr(validation, "__iter__")


def _measured(metric: object, model: nn.Module, device: torch.device) -> Evaluation:
    with evaluating(model, device), torch.no_grad():
        found = metric(model)  # type: ignore[operator]
    try:
        value = float(found)
    except (TypeError, ValueError):
        raise DataError(f"the metric returned a {type(found).__name__}: return a number, higher is better") from None
    if not math.isfinite(value):
        raise DataError(f"the metric returned {value}: return a finite number, higher is better")
    return Evaluation(top1=value, top5=math.nan, loss=math.nan, n=0)
