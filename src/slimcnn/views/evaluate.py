"""Show the accuracy of a network."""

from __future__ import annotations

from dataclasses import asdict

from torch import nn

from slimcnn.datasets import Examples, Normalization
from slimcnn.reporting.sections import Section
from slimcnn.training import evaluate as measure_accuracy
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
