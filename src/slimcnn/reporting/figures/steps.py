"""The metric after each step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from slimcnn.reporting import formatting
from slimcnn.reporting.figures.drawing import AFTER, ALARM, BEFORE, INK, MUTED, Drawing, Panel, beside, figures, picture
from slimcnn.reporting.outcome import MetricName
from slimcnn.reporting.sections import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, ROW, MARGIN, GAP = 340, 30, 4, 8
NAMES, VALUES = 94, 46
"""Pixels to the left and to the right of the bars."""

FAR = 5.0
"""A bar this many points below the original is drawn as an alarm."""


class MeasuredStep(Part):
    """The metric on the validation images after a step."""

    name: str
    score: float


@figures.add("steps", source="slimcnn")
class Steps(Drawing):
    """The validation metric after each step: one bar per step, and a line at the original's, the first bar."""

    layout: ClassVar[str] = "columns"

    steps: tuple[MeasuredStep, ...]
    metric: MetricName = MetricName()

    def panels(self, name: str) -> list[Panel]:
        """Draw one panel, none if no step has a finite value; bars range from 0 to 100 %, or to the largest value."""
        measured = any(math.isfinite(step.score) for step in self.steps)
        return [Panel("", "", _bars(self.steps, name, self.metric))] if measured else []


def _color(before: float, after: float, metric: MetricName) -> str:
    return ALARM if metric.unit == "%" and -metric.gain(before, after) > FAR else AFTER


def _bars(steps: tuple[MeasuredStep, ...], name: str, metric: MetricName) -> str:
    heights = [step.score if math.isfinite(step.score) else 0.0 for step in steps]
    whole = 100.0 if metric.unit == "%" else max(*heights, 0.0) or 1.0

    def draw(axes: Axes) -> None:
        places = range(len(steps))
        colors = [BEFORE, *(_color(heights[0], height, metric) for height in heights[1:])]
        axes.barh(places, heights, height=0.5, color=colors)
        if heights[0]:
            axes.axvline(heights[0], color=MUTED, linewidth=1, dashes=(2, 2), zorder=0)
        for place, step in zip(places, steps, strict=True):
            beside(axes, formatting.short_name(step.name, 14), 0, place, -GAP, INK, size=11)
            beside(axes, metric.number(step.score), whole, place, VALUES, INK, size=11)
        axes.set_axis_off()
        axes.set_xlim(0, whole)
        axes.set_ylim(len(steps) - 0.5, -0.5)

    values = ", ".join(f"{step.name} {metric.written(step.score)}" for step in steps)
    return picture(
        draw,
        name=name,
        label=f"{formatting.capital(metric.name)} on the validation images: {values}",
        width=WIDTH,
        height=ROW * len(steps) + 2 * MARGIN,
        margins=(NAMES, MARGIN, VALUES, MARGIN),
    )
