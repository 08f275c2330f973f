"""How recovery training went, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

from slimcnn.reporting import phrases
from slimcnn.reporting.contents import Curve
from slimcnn.reporting.figures.drawing import AFTER, BEFORE, INK, MUTED, RULE, Panel, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 240, 170
FEW = 12
"""Epochs that are marked by a dot each."""

Line = tuple[str, list[float], str, str]
"""Name, one value per epoch, colour, line style."""


@dataclass(frozen=True)
class Plot:
    """What one panel shows."""

    name: str
    title: str
    note: str
    lines: Sequence[Line]
    level: float | None = None
    """Of the original network."""
    from_zero: bool = False

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(math.isfinite(value) for _, values, _, _ in self.lines for value in values)


def curves(epochs: Sequence[Curve], original: float | None, prefix: str = "") -> list[Panel]:
    """Loss with its terms, top-1 with the original network's level (percent; None: not known), learning rate.

    `prefix` keeps the pictures of several trainings on one page apart.  A panel whose numbers are all not finite is
    left out.
    """
    accuracy: list[Line] = [
        ("training", [epoch.train_top1 for epoch in epochs], BEFORE, "-"),
        ("validation", [epoch.validation_top1 for epoch in epochs], AFTER, "-"),
    ]
    rate: list[Line] = [("learning rate", [epoch.learning_rate for epoch in epochs], MUTED, "-")]
    last = epochs[-1]
    reached = f"validation {phrases.percent(last.validation_top1)} in the end"
    plots = (
        Plot(f"{prefix}loss", "Loss", f"{phrases.small(last.loss)} in the end", _losses(epochs)),
        Plot(f"{prefix}top1", "Top-1, %", reached, accuracy, level=original),
        Plot(f"{prefix}rate", "Learning rate", "in each epoch’s last step", rate, from_zero=True),
    )
    return [_panel(plot, [epoch.epoch for epoch in epochs]) for plot in plots if not plot.empty]


def _losses(epochs: Sequence[Curve]) -> list[Line]:
    """The loss, and its terms unless there is only one."""
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
        for name, values, colour, style in plot.lines:
            label = phrases.short_name(name, 18)
            axes.plot(epochs, values, color=colour, linestyle=style, linewidth=1.5, marker=marker, ms=3, label=label)
        if plot.from_zero:
            axes.set_ylim(bottom=0)
        axes.grid(axis="y", color=RULE, linewidth=1)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: phrases.small(value)))
        if len(plot.lines) > 1:
            axes.legend(loc="best", handlelength=1.6, borderaxespad=0.2, labelspacing=0.3)

    told = "; ".join(f"{name} {phrases.small(v[0])} to {phrases.small(v[-1])}" for name, v, _, _ in plot.lines)
    svg = picture(
        draw,
        name=plot.name,
        label=f"{plot.title} over {phrases.plural(len(epochs), 'epoch')}: {told}",
        width=WIDTH,
        height=HEIGHT,
        margins=(42, 8, 8, 20),
    )
    return Panel(plot.title, plot.note, svg)
