"""Top-1 after each step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from slimcnn.reporting import formatting
from slimcnn.reporting.figures.drawing import AFTER, ALARM, BEFORE, INK, MUTED, Drawing, Panel, beside, figures, picture
from slimcnn.reporting.sections import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, ROW, MARGIN, GAP = 340, 30, 4, 8
NAMES, VALUES = 94, 46
"""Pixels to the left and to the right of the bars."""

FAR = 5.0
"""A bar this many points below the original is drawn as an alarm."""


class StepTop1(Part):
    """Validation accuracy after a step."""

    name: str
    top1: float


@figures.add("steps", source="slimcnn")
class Steps(Drawing):
    """Validation accuracy after each step: one bar per step, and a line at the original's accuracy, the first bar."""

    layout: ClassVar[str] = "columns"

    steps: tuple[StepTop1, ...]
    title: str = "top-1"
    """Name of the metric."""

    def panels(self, name: str) -> list[Panel]:
        """Draw one panel, none if no step has a finite value; bars range from 0 to 100 %."""
        measured = any(math.isfinite(step.top1) for step in self.steps)
        return [Panel("", "", _bars(self.steps, name, self.title))] if measured else []


def _color(lost: float) -> str:
    return ALARM if lost > FAR else AFTER


def _bars(steps: tuple[StepTop1, ...], name: str, title: str) -> str:
    def draw(axes: Axes) -> None:
        heights = [step.top1 if math.isfinite(step.top1) else 0.0 for step in steps]
        places = range(len(steps))
        axes.barh(places, heights, height=0.5, color=[BEFORE, *(_color(heights[0] - top1) for top1 in heights[1:])])
        if heights[0]:
            axes.axvline(heights[0], color=MUTED, linewidth=1, dashes=(2, 2), zorder=0)
        for place, step in zip(places, steps, strict=True):
            beside(axes, formatting.short_name(step.name, 14), 0, place, -GAP, INK, size=11)
            beside(axes, formatting.percent(step.top1), 100, place, VALUES, INK, size=11)
        axes.set_axis_off()
        axes.set_xlim(0, 100)
        axes.set_ylim(len(steps) - 0.5, -0.5)

    values = ", ".join(f"{step.name} {formatting.percent(step.top1)} %" for step in steps)
    return picture(
        draw,
        name=name,
        label=f"{formatting.capital(title)} on the validation images: {values}",
        width=WIDTH,
        height=ROW * len(steps) + 2 * MARGIN,
        margins=(NAMES, MARGIN, VALUES, MARGIN),
    )
