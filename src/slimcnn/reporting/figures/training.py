"""Training curves by epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

from pydantic import AliasChoices, Field

from slimcnn.reporting import formatting
from slimcnn.reporting.figures.drawing import AFTER, BEFORE, INK, MUTED, RULE, Drawing, Panel, figures, picture
from slimcnn.reporting.sections import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 240, 170
FEW = 12
"""Maximum number of epochs that are marked with dots."""

Line = tuple[str, list[float], str, str]
"""Name, one value per epoch, color, line style."""


@dataclass(frozen=True)
class Plot:
    """The content of one panel."""

    name: str
    title: str
    note: str
    lines: Sequence[Line]
    level: float | None = None
    """The value of the original network."""
    from_zero: bool = False
    kept: int | None = None
    """The epoch to mark."""

    @property
    def empty(self) -> bool:
        """Whether there are no finite values to draw."""
        return not any(math.isfinite(value) for _, values, _, _ in self.lines for value in values)


PERCENT = ", %"
"""The end of the heading of a metric that is a percentage."""


class EpochPoint(Part):
    """One epoch of training."""

    epoch: int
    loss: float
    terms: dict[str, float]
    """The weighted terms of the loss; their sum is the loss."""
    gradients: dict[str, float] = Field(default_factory=dict)
    """For each term, the L1 norm of its gradient with respect to an image's logits, averaged over the epoch."""
    train_accuracy: float = Field(validation_alias=AliasChoices("train_accuracy", "train_top1"))
    validation_metric: float = Field(validation_alias=AliasChoices("validation_metric", "validation_top1"))
    learning_rate: float
    seconds: float


@figures.add("training", source="slimcnn")
class TrainingCurves(Drawing):
    """Training curves: loss with its terms, the metric, and learning rate by epoch."""

    epochs: tuple[EpochPoint, ...]
    level: float | None
    """Validation metric of the original network, in its unit; None if unknown."""
    kept: int | None = None
    """The epoch whose weights were kept; 0: the start, before the first epoch."""
    metric: str = "top-1, %"
    """Name and unit of the metric."""

    def panels(self, name: str) -> list[Panel]:
        """Draw three panels; a panel without finite values is left out."""
        epochs = self.epochs
        if not epochs:
            return []
        accuracy: list[Line] = [
            *_trained(epochs, self.metric),
            ("validation", [epoch.validation_metric for epoch in epochs], AFTER, "-"),
        ]
        rate: list[Line] = [("learning rate", [epoch.learning_rate for epoch in epochs], MUTED, "-")]
        last = epochs[-1]
        number = formatting.percent if self.metric.endswith(PERCENT) else formatting.small
        reached = f"validation {number(last.validation_metric)} at the end"
        if self.kept is not None and self.kept != last.epoch:
            reached += f", kept: {f'epoch {self.kept}' if self.kept else 'the start'}"
        level = self.level if self.level is not None and math.isfinite(self.level) else None
        plots = (
            Plot(f"{name}loss", "Loss", f"{formatting.small(last.loss)} at the end", _losses(epochs)),
            Plot(
                f"{name}metric",
                formatting.capital(self.metric),
                reached,
                accuracy,
                level=level,
                kept=self.kept,
            ),
            Plot(f"{name}rate", "Learning rate", "at the last step of each epoch", rate, from_zero=True),
        )
        return [_panel(plot, [epoch.epoch for epoch in epochs]) for plot in plots if not plot.empty]


def _trained(epochs: Sequence[EpochPoint], metric: str) -> list[Line]:
    """Return the line of what is right in training, a percentage; none beside a metric that is not one."""
    if not metric.endswith(PERCENT):
        return []
    name = "training" if metric == TrainingCurves.model_fields["metric"].default else "right in training"
    return [(name, [epoch.train_accuracy for epoch in epochs], BEFORE, "-")]


def _losses(epochs: Sequence[EpochPoint]) -> list[Line]:
    """Return the lines of the loss and, if there are several, of its terms."""
    terms = list(dict.fromkeys(name for epoch in epochs for name in epoch.terms))
    lines: list[Line] = [("sum", [epoch.loss for epoch in epochs], AFTER, "-")]
    if len(terms) < 2:
        return lines
    return lines + [
        (name, [epoch.terms.get(name, float("nan")) for epoch in epochs], MUTED, style)
        for name, style in zip(terms, cycle(["--", ":", "-."]), strict=False)
    ]


def _panel(plot: Plot, epochs: Sequence[int]) -> Panel:
    def draw(axes: Axes) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        if plot.level is not None:
            axes.axhline(plot.level, color=INK, linewidth=1, dashes=(2, 2), label="original")
        marker = "o" if len(epochs) <= FEW else ""
        for name, values, color, style in plot.lines:
            label = formatting.short_name(name, 18)
            axes.plot(epochs, values, color=color, linestyle=style, linewidth=1.5, marker=marker, ms=3, label=label)
        if plot.kept:
            axes.axvline(plot.kept, color=AFTER, linewidth=1, dashes=(1, 2), label=f"kept, epoch {plot.kept}")
        if plot.from_zero:
            axes.set_ylim(bottom=0)
        axes.grid(axis="y", color=RULE, linewidth=1)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if len(epochs) == 1:  # the default axis would run from 0.95 to 1.05
            axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
            axes.set_xticks(list(epochs))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: formatting.small(value)))
        if len(plot.lines) > 1:
            axes.legend(loc="best", handlelength=1.6, borderaxespad=0.2, labelspacing=0.3)

    ranges = "; ".join(f"{name} {formatting.small(v[0])} to {formatting.small(v[-1])}" for name, v, _, _ in plot.lines)
    svg = picture(
        draw,
        name=plot.name,
        label=f"{plot.title} over {formatting.plural(len(epochs), 'epoch')}: {ranges}",
        width=WIDTH,
        height=HEIGHT,
        margins=(42, 8, 8, 20),
    )
    return Panel(plot.title, plot.note, svg)
