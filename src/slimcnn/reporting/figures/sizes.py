"""Accuracy of several sizes of a network against MACs and measured latency."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from slimcnn.reporting import formatting
from slimcnn.reporting.figures.drawing import AFTER, BEFORE, INK, MUTED, RULE, Drawing, Panel, figures, picture
from slimcnn.reporting.sections import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 360, 230
MARGINS = (36, 8, 10, 34)


class Size(Part):
    """One network: label, cost and accuracy."""

    label: str
    macs: int
    top1: float
    """Top-1 in percent."""
    latency_ms: float


@figures.add("sizes", source="slimcnn")
class Sizes(Drawing):
    """Accuracy of several sizes of a network against MACs and measured latency."""

    layout: ClassVar[str] = "columns"

    reference: Size
    points: tuple[Size, ...]

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
                if math.isfinite(size.top1) and math.isfinite(cost(size))
            ]
            if known:
                panels.append(_panel(known, self.reference, what, unit, f"{name}{index}"))
        return panels


def _panel(known: Sequence[tuple[Size, float]], reference: Size, what: str, unit: str, name: str) -> Panel:
    costs, top1s = [cost for _, cost in known], [size.top1 for size, _ in known]
    right = 1.18 * max(*costs, 1e-9)
    room = max(0.18 * (max(top1s) - min(top1s)), 0.5)
    bottom, top = min(top1s) - room, max(top1s) + room

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        in_order = sorted((cost, size.top1) for size, cost in known)
        axes.plot(*zip(*in_order, strict=True), color=MUTED, linewidth=1)
        if math.isfinite(reference.top1):
            axes.axhline(reference.top1, color=INK, linewidth=1, dashes=(2, 2))
        for size, cost in known:
            axes.plot([cost], [size.top1], "o", color=BEFORE if size is reference else AFTER, ms=6)
            # The curve rises and flattens, so that there is room below and to the right of a point.
            axes.annotate(
                formatting.short_name(size.label, 12), (cost, size.top1), xytext=(5, -9), textcoords="offset points",
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

    label = f"Top-1 of {formatting.plural(len(known), 'network')} against {what}: " + "; ".join(
        f"{size.label} {formatting.percent(size.top1)} % at {formatting.small(cost)} {unit}" for size, cost in known
    )
    svg = picture(draw, name=name, label=label, width=WIDTH, height=HEIGHT, margins=MARGINS)
    return Panel(f"Top-1, %, against {what}", "test images", svg)
