"""How top-1 went from step to step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from slimcnn.reporting import phrases
from slimcnn.reporting.contents import Stage
from slimcnn.reporting.figures.drawing import AFTER, BEFORE, INK, MUTED, beside, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, ROW, MARGIN, GAP = 340, 30, 4, 8
NAMES, VALUES = 94, 46
"""Pixels left of the bars, and right of them."""


def stages(steps: Sequence[Stage]) -> str:
    """One bar per step from 0 to 100 %, and a line at the level of the first; nothing where no step has a number."""
    if not any(math.isfinite(step.top1) for step in steps):
        return ""

    def draw(axes: Axes) -> None:
        heights = [step.top1 if math.isfinite(step.top1) else 0.0 for step in steps]
        places = range(len(steps))
        axes.barh(places, heights, height=0.5, color=[BEFORE, *[AFTER] * (len(steps) - 1)])
        if heights[0]:
            axes.axvline(heights[0], color=MUTED, linewidth=1, dashes=(2, 2), zorder=0)
        for place, step in zip(places, steps, strict=True):
            beside(axes, phrases.short_name(step.name, 14), 0, place, -GAP, INK, size=11)
            beside(axes, phrases.percent(step.top1), 100, place, VALUES, INK, size=11)
        axes.set_axis_off()
        axes.set_xlim(0, 100)
        axes.set_ylim(len(steps) - 0.5, -0.5)

    told = ", ".join(f"{step.name} {phrases.percent(step.top1)} %" for step in steps)
    return picture(
        draw,
        name="stages",
        label=f"Top-1 on the validation images: {told}",
        width=WIDTH,
        height=ROW * len(steps) + 2 * MARGIN,
        margins=(NAMES, MARGIN, VALUES, MARGIN),
    )
