"""Pictures for the report: test images with labels, and with the answers of both networks."""

from __future__ import annotations

import torch
from torch import nn

from slimcnn.reporting.figures.side_by_side import Pictured, SideBySide
from slimcnn.reporting.sections import Section
from slimcnn.running.step import State
from slimcnn.tasks.pictures import hexadecimal, jpeg_of
from slimcnn.tasks.task import answer
from slimcnn.training.evaluation import evaluating

SHOWN = 4
"""Number of test images in the report."""


def about_examples(state: State) -> list[Section]:
    """Return the section with pictures; none if the task draws none."""
    data, task = state.data, state.task
    if not task.draws:
        return []
    chosen = data.test.take(torch.linspace(0, len(data.test) - 1, min(SHOWN, len(data.test))).long()).in_memory()
    pixels, targets = chosen.pixels.cpu(), chosen.labels.cpu()
    drawn = [
        ("labels", [task.drawn(image, task.target_of(y)) for image, y in zip(pixels, targets, strict=True)]),
        *((name, _drawn(network, state, pixels)) for name, network in
          (("reference", state.reference), ("compressed", state.model))),
    ]  # fmt: skip
    _, height, width = data.shape
    examples = tuple(
        Pictured(
            title=f"test image {place + 1} of {len(chosen)}", width=width, height=height,
            names=tuple(name for name, _ in drawn), jpegs=tuple(jpeg_of(images[place]) for _, images in drawn),
        )
        for place in range(len(chosen))
    )  # fmt: skip
    colors = tuple(hexadecimal(kind) for kind in range(len(data.classes)))
    return [
        Section(title="Examples", blocks=(SideBySide(examples=examples, classes=data.classes, colors=colors).block(),))
    ]


def _drawn(network: nn.Module, state: State, pixels: torch.Tensor) -> list[object]:
    x = state.data.normalization(pixels)
    with evaluating(network, torch.device("cpu")), torch.no_grad():
        answers = [state.task.answer_of(answer(network, one[None]), one[None]) for one in x]
    return [state.task.drawn(image, found) for image, found in zip(pixels, answers, strict=True)]
