"""Evaluate a classifier: top-1, top-5 and cross entropy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcnn.datasets import AnyLoader, Examples, Normalization, batches, examples_of
from slimcnn.datasets.given import GivenBatches
from slimcnn.errors import DataError, ModelError
from slimcnn.modes import modes_restored
from slimcnn.objectives import class_scores
from slimcnn.training.processes import best_device, summed

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Evaluation:
    """The accuracy and the loss of a network on a set of images."""

    top1: float
    """Percent, 0 to 100: the label has the highest score."""
    top5: float
    """Percent, 0 to 100: the label is among the five highest scores (all scores if there are fewer classes)."""
    loss: float
    """Mean cross entropy, in nats."""
    n: int
    """Number of images."""


def evaluate(
    model: nn.Module,
    images: Examples | AnyLoader,
    normalization: Normalization | None = None,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    fabric: Fabric | None = None,
) -> Evaluation:
    """Compute top-1, top-5 and cross entropy of a classifier on images, in float32, without augmentation.

    `images` are those of a part of a dataset, which need its normalization, or any iterable of batches (x, y), such as
    a `DataLoader`, which are used as they are.

    Runs in eval mode on `device` (default: `best_device`), then restores modes and device.
    With a `fabric` of several processes, each evaluates its share on its own device and all return the same result.
    Raises `DataError` if there are no images, `ModelError` if the network does not fit them or has non-finite scores.

    >>> from slimcnn.datasets import load_dataset
    >>> digits = load_dataset("digits")
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> evaluate(model, digits.test, digits.normalization).n == len(digits.test.labels)
    True
    """
    images = examples_of(images)
    given = isinstance(images, GivenBatches)
    if normalization is None and not given:
        raise DataError("evaluate needs the normalization of the images: pass data.normalization")
    if not given and not len(images.labels):
        raise DataError("there are no images to evaluate on")
    normalization = normalization or Normalization((0.0,), (1.0,))
    classes = int(images.labels.max()) + 1 if len(images.labels) else 1
    rank, world = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    place = fabric.device if fabric else torch.device(device) if device else best_device()
    rows = []
    # Not inference_mode: a network may cache a tensor it creates here (a grid, a mask) and could not train with it.
    with evaluating(model, place), torch.no_grad():
        share = batches(images, batch_size, normalization=normalization, rank=rank, world=world, device=place)
        for x, y in share:
            logits = scores(model, x, classes)
            if given:
                _refuse_unknown_labels(y, logits.shape[1])
            rows.append(_counts(logits, y))
    total = torch.stack(rows).cpu().double().sum(0) if rows else torch.zeros(5, dtype=torch.float64)
    if fabric:
        total = summed(fabric, total)
    top1, top5, loss, bad, n = total.tolist()
    if not n:
        raise DataError("there are no images to evaluate on: there is no batch, or all images are broken")
    if bad:
        raise ModelError(f"the network's scores are not finite for {bad:.0f} of {n:.0f} images: check its weights")
    return Evaluation(100 * top1 / n, 100 * top5 / n, loss / n, int(n))


@dataclass(frozen=True)
class PartialEvaluation:
    """The metric on the images evaluated before the required value was out of reach."""

    metric: float
    """Top-1 in percent of the evaluated images, or the metric of another task, or of the user, in its unit."""
    n: int
    """Number of evaluated images."""
    whole: bool
    """Whether all images were evaluated."""


def evaluate_unless_below(
    model: nn.Module,
    images: Examples | AnyLoader,
    normalization: Normalization | None,
    least: float,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
) -> PartialEvaluation:
    """Compute top-1 as `evaluate` does, but stop as soon as it cannot reach `least` percent.

    Exact: it stops when `least` is out of reach even if all remaining images are hits. Non-finite scores are misses.

    >>> from slimcnn.datasets import load_dataset
    >>> digits = load_dataset("digits")
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> evaluate_unless_below(model, digits.train, digits.normalization, 99.9, batch_size=16).n < len(digits.train) / 5
    True
    """
    images = examples_of(images)
    if isinstance(images, GivenBatches) or normalization is None:
        found = evaluate(model, images, normalization, device=device)  # how many images remain is not known
        return PartialEvaluation(found.top1, found.n, True)
    n, seen, hits, whole = len(images.labels), 0, 0, True
    classes = int(images.labels.max()) + 1
    place = torch.device(device) if device else best_device()
    with evaluating(model, place), torch.no_grad():
        for x, y in batches(images, batch_size, normalization=normalization, device=place):
            counts = _counts(scores(model, x, classes).nan_to_num(-torch.inf), y)
            seen, hits = seen + len(y), hits + int(counts[0])
            if 100 * (hits + n - seen) < least * n:
                whole = seen == n
                break
    return PartialEvaluation(100 * hits / max(seen, 1), seen, whole)


def scores(model: nn.Module, x: Tensor, classes: int) -> Tensor:
    """Return the network's logits `(n, at least classes)` in float32; `ModelError` if they do not fit the dataset."""
    try:
        output = model(x)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"the network does not accept images {tuple(x.shape)}: {reason}") from error
    logits = class_scores(output, len(x))
    if logits.shape[1] < classes:
        found = f"the network has {logits.shape[1]} outputs, but the labels have {classes} classes"
        raise ModelError(f"{found}: build it with {classes} classes")
    return logits.float()


def _refuse_unknown_labels(y: Tensor, outputs: int) -> None:
    if int(y.min()) < 0 or int(y.max()) >= outputs:
        found = f"labels {int(y.min())} to {int(y.max())}"
        raise DataError(f"a batch has {found}, but the network has {outputs} outputs: labels start at 0")


def _counts(logits: Tensor, y: Tensor) -> Tensor:
    """Return top-1 hits, top-5 hits, summed cross entropy, the number of images with non-finite scores, and of all."""
    hits = logits.topk(min(5, logits.shape[1])).indices == y[:, None]
    loss = F.cross_entropy(logits, y, reduction="sum")
    bad = (~torch.isfinite(logits)).any(1)
    return torch.stack([hits[:, 0].sum(), hits.any(1).sum(), loss, bad.sum(), torch.full_like(loss, len(y))])


@contextmanager
def evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put the network in eval mode on `device` within the block; restore modes and device afterwards."""
    parameter = next(model.parameters(), None)
    home = parameter.device if parameter is not None else device
    with modes_restored(model):
        try:
            model.to(device).eval()
            yield
        finally:
            model.to(home)
