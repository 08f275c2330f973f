"""Accuracy against cost of the points of a study, with their spread and the best trade-offs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from slimcnn.reporting import formatting
from slimcnn.reporting.figures.drawing import AFTER, BEFORE, INK, MUTED, RULE, Drawing, Panel, figures, picture
from slimcnn.reporting.figures.trade import names_beside
from slimcnn.reporting.outcome import MetricName
from slimcnn.reporting.sections import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 720, 340
MARGINS = (44, 10, 10, 38)
COLORS, MARKS = (AFTER, BEFORE, INK, MUTED), ("o", "s", "D", "^", "v", "P", "X", "*")
"""Color and marker of each series; the lists repeat if there are more."""


class StudyPlace(Part):
    """One point of a study: the mean of the metric over its seeds, and its cost."""

    label: str
    series: str
    """Points of one series are joined by a line."""
    cost: float
    score: float
    """In the unit of the metric."""
    spread: float
    """Standard deviation over the seeds; 0 for one seed."""
    best: bool
    """Whether no other point is cheaper and at least as accurate."""


@figures.add("front", source="slimcnn")
class Front(Drawing):
    """Accuracy against cost of all points of a study; the best trade-offs are circled."""

    layout: ClassVar[str] = "panels wide"

    points: tuple[StudyPlace, ...]
    cost: str
    """What the cost is, with its unit."""
    accuracy: str
    images: str
    """The images that the accuracy was measured on."""
    metric: MetricName = MetricName()

    def panels(self, name: str) -> list[Panel]:
        """Draw one panel; points with an unknown number are left out."""
        known = [one for one in self.points if math.isfinite(one.score) and math.isfinite(one.cost)]
        return [_panel(known, self, name)] if known else []

    @property
    def caption(self) -> str:
        """Explain the bars and the circles."""
        return "Bars: one standard deviation over the seeds. Circles: no other point is cheaper and as accurate."


def _panel(points: Sequence[StudyPlace], figure: Front, name: str) -> Panel:
    series = list(dict.fromkeys(one.series for one in points))
    costs = [one.cost for one in points]
    low, high = _ends(costs, 0.12, 0.1 * max(map(abs, costs)))
    metric = figure.metric
    least = 1.0 if metric.unit == "%" else 0.1 * max(abs(one.score) for one in points)
    bottom, top = _ends([one.score + sign * one.spread for one in points for sign in (-1, 1)], 0.15, least)

    def draw(axes: Axes) -> None:
        for index, which in enumerate(series):
            own = sorted((one for one in points if one.series == which), key=lambda one: one.cost)
            color, mark = COLORS[index % len(COLORS)], MARKS[index % len(MARKS)]
            scores = [one.score for one in own]
            axes.errorbar(
                [one.cost for one in own], scores, yerr=[one.spread for one in own], fmt=mark + "-", color=color, ms=5,
                linewidth=1, capsize=2, label=formatting.short_name(which, 28) if which else None,
            )  # fmt: skip
        best = [one for one in points if one.best]
        axes.plot(
            [one.cost for one in best], [one.score for one in best], "o", ms=13, markerfacecolor="none",
            markeredgecolor=MUTED, linestyle="none",
        )  # fmt: skip
        axes.set_xlim(low, high)
        axes.set_ylim(bottom, top)
        axes.set_xlabel(figure.cost, color=INK)
        axes.grid(color=RULE, linewidth=0.5)
        axes.set_axisbelow(True)
        if len(series) > 1:
            axes.legend(loc="lower right" if metric.higher_is_better else "upper right", handlelength=1.4)
        else:
            _names(axes, points, (low, high), (bottom, top))

    label = f"{figure.accuracy} of {formatting.plural(len(points), 'point')} against {figure.cost}: " + "; ".join(
        f"{one.label} {metric.number(one.score)} at {one.cost:.3g}" for one in points
    )
    svg = picture(draw, name=name, label=label, width=WIDTH, height=HEIGHT, margins=MARGINS)
    return Panel(f"{figure.accuracy} against {figure.cost}", figure.images + metric.direction, svg)


def _names(axes: Axes, points: Sequence[StudyPlace], across: tuple[float, float], down: tuple[float, float]) -> None:
    """Write the label next to each point."""
    wide, tall = WIDTH - MARGINS[0] - MARGINS[2], HEIGHT - MARGINS[1] - MARGINS[3]
    places = [
        (wide * (one.cost - across[0]) / (across[1] - across[0]), tall * (one.score - down[0]) / (down[1] - down[0]))
        for one in points
    ]
    words = [formatting.short_name(one.label, 36) for one in points]
    for one, text, (dx, dy) in zip(points, words, names_beside(places, words, wide), strict=True):
        axes.annotate(
            text, (one.cost, one.score), xytext=(dx, dy), textcoords="offset points", ha="left", va="center",
            color=MUTED, fontsize=9,
        )  # fmt: skip


def _ends(values: Sequence[float], room: float, least: float = 0.0) -> tuple[float, float]:
    """Return the ends of an axis: the values with room on both sides, and at least so much between the ends.

    >>> _ends([1.0, 2.0], 0.1), _ends([1.0], 0.1), _ends([90.0, 90.1], 0.0, least=1.0)
    ((0.9, 2.1), (0.9, 1.1), (89.55, 90.55))
    """
    low, high = min(values), max(values)
    pad = max(room * ((high - low) or abs(high) or 1.0), (least - (high - low)) / 2)
    return low - pad, high + pad
