"""Show the accuracy of a network."""

from __future__ import annotations

from dataclasses import asdict

from torch import nn

from slimcnn.datasets import Dataset, Examples, Normalization
from slimcnn.reporting.outcome import MetricName
from slimcnn.reporting.sections import Section
from slimcnn.tasks import task_of
from slimcnn.training import evaluate as measure_accuracy
from slimcnn.training import judge
from slimcnn.views.view import View, table


def evaluate(model: nn.Module, images: Examples, normalization: Normalization, part: str = "test") -> View:
    """Measure top-1, top-5 (both in percent) and the loss (mean cross entropy) of a network on images.

    Args:
        model: a classifier; not changed.
        images: images with their labels.
        normalization: the normalization that the network expects.
        part: the split of the images: test, validation or train.

    Data: `top1`, `top5`, `loss`, `n` (number of images) and `part`.
    """
    found = measure_accuracy(model, images, normalization)
    columns = table(
        {"images": "text", "n": "exact", "top-1, %": "percent", "top-5, %": "percent", "loss": "small"},
        [(part, found.n, found.top1, found.top5, found.loss)],
    )
    scores = f"top-1 {found.top1:.2f} %, top-5 {found.top5:.2f} %, loss {found.loss:.4f}"
    return View(
        title="Accuracy",
        headline=f"{scores} on {found.n:,} {part} images",
        sections=(Section(title="Accuracy", blocks=(columns,)),),
        data=asdict(found) | {"part": part},
    )


def evaluate_task(model: nn.Module, data: Dataset, part: str = "test") -> View:
    """Measure the metric of a dataset's task, and the loss.

    Data: the metric under its name, `loss`, `n` and `part`.
    """
    found = judge(model, getattr(data, part), data)
    metric = MetricName.of(task_of(data).metric)
    columns = table(
        {"images": "text", "n": "exact", metric.title: metric.format, "loss": "small"},
        [(part, found.n, found.score, found.loss)],
    )
    return View(
        title="Accuracy",
        headline=f"{metric.name} {metric.written(found.score)} on {found.n:,} {part} images",
        sections=(Section(title="Accuracy", blocks=(columns,)),),
        data={metric.name: found.score, "loss": found.loss, "n": found.n, "part": part},
    )
