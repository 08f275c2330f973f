"""Accuracy of several sizes of a network against MACs and measured latency."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from slimcnn.reporting import formatting
from slimcnn.reporting.figures.drawing import AFTER, BEFORE, INK, MUTED, RULE, Drawing, Panel, around, figures, picture
from slimcnn.reporting.outcome import MetricName
from slimcnn.reporting.sections import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 360, 230
MARGINS = (36, 8, 10, 34)


class Size(Part):
    """One network: label, cost and accuracy."""

    label: str
    macs: int
    score: float
    """The metric on the test images, in its unit."""
    latency_ms: float


@figures.add("sizes", source="slimcnn")
class Sizes(Drawing):
    """Accuracy of several sizes of a network against MACs and measured latency."""

    layout: ClassVar[str] = "columns"

    reference: Size
    points: tuple[Size, ...]
    metric: MetricName = MetricName()

    def panels(self, name: str) -> list[Panel]:
        """Draw two panels; a panel is left out if no size has both numbers."""
        costs: tuple[tuple[str, str, Callable[[Size], float]], ...] = (
            ("MACs", "MACs, millions", lambda size: size.macs / 1e6),
            ("measured latency", "ms per call", lambda size: size.latency_ms),
        )
        panels = []
        for index, (what, unit, cost) in enumerate(costs):
            known = [
                (size, cost(size))
                for size in (self.reference, *self.points)
                if math.isfinite(size.score) and math.isfinite(cost(size))
            ]
            if known:
                panels.append(_panel(known, self, what, unit, f"{name}{index}"))
        return panels


def _panel(known: Sequence[tuple[Size, float]], figure: Sizes, what: str, unit: str, name: str) -> Panel:
    costs, scores = [cost for _, cost in known], [size.score for size, _ in known]
    reference, metric = figure.reference, figure.metric
    right = 1.18 * max(*costs, 1e-9)
    bottom, top = around(scores, 0.18, metric)
    # The curve rises and flattens, so that there is room below and to the right of a point; that of an error falls.
    below = -9 if metric.higher_is_better else 9

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        in_order = sorted((cost, size.score) for size, cost in known)
        axes.plot(*zip(*in_order, strict=True), color=MUTED, linewidth=1)
        if math.isfinite(reference.score):
            axes.axhline(reference.score, color=INK, linewidth=1, dashes=(2, 2))
        for size, cost in known:
            axes.plot([cost], [size.score], "o", color=BEFORE if size is reference else AFTER, ms=6)
            axes.annotate(
                formatting.short_name(size.label, 12), (cost, size.score), xytext=(5, below),
                textcoords="offset points",
                ha="left", va="center", color=MUTED, fontsize=9,
            )  # fmt: skip
        axes.set_xlim(0, right)
        axes.set_ylim(bottom, top)
        axes.set_xlabel(unit, color=INK)
        axes.grid(axis="y", color=RULE, linewidth=0.5)
        axes.set_axisbelow(True)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
            axis.set_major_formatter(FuncFormatter(lambda value, _: formatting.small(value)))

    title = formatting.capital(metric.title)
    name_of_metric = formatting.capital(metric.name)
    label = f"{name_of_metric} of {formatting.plural(len(known), 'network')} against {what}: " + "; ".join(
        f"{size.label} {metric.written(size.score)} at {formatting.small(cost)} {unit}" for size, cost in known
    )
    svg = picture(draw, name=name, label=label, width=WIDTH, height=HEIGHT, margins=MARGINS)
    return Panel(f"{title}, against {what}", f"test images{metric.direction}", svg)
