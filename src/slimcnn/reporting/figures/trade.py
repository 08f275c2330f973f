"""Accuracy against cost of compact networks, with different markers for spatial and shift convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import model_validator

from slimcnn.reporting.figures.drawing import AFTER, BEFORE, INK, MUTED, RULE, Drawing, Panel, figures, picture
from slimcnn.reporting.sections import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 720, 400
MARGINS = (36, 30, 10, 38)
LETTER, LINE = 4.9, 11
"""Width of a letter and height of a line, in pixels."""
COLORS = {"spatial": BEFORE, "shift": AFTER}
MARKS = {"spatial": "o", "shift": "s"}


class CompactNetwork(Part):
    """One network: published accuracy and measured cost."""

    title: str
    family: Literal["spatial", "shift"]
    macs: int
    top1: float
    """Published top-1 in percent."""
    milliseconds: tuple[float, ...]
    """Median time in each runtime."""


@figures.add("trade", source="slimcnn")
class Trade(Drawing):
    """Published accuracy of networks against MACs and against the time in every runtime."""

    layout: ClassVar[str] = "panels wide"

    runtimes: tuple[str, ...]
    networks: tuple[CompactNetwork, ...]

    @model_validator(mode="after")
    def _timed(self) -> Trade:
        for one in self.networks:
            if len(one.milliseconds) != len(self.runtimes):
                raise ValueError(f"{one.title} has {len(one.milliseconds)} times for {len(self.runtimes)} runtimes")
        return self

    def panels(self, name: str) -> list[Panel]:
        """Draw one panel for MACs and one per runtime; networks with an unknown cost are left out."""
        costs = [("MACs", "MACs, millions", [one.macs / 1e6 for one in self.networks])]
        for index, runtime in enumerate(self.runtimes):
            costs.append((runtime, "ms", [one.milliseconds[index] for one in self.networks]))
        panels = []
        for index, (what, unit, values) in enumerate(costs):
            known = [
                (one, cost)
                for one, cost in zip(self.networks, values, strict=True)
                if math.isfinite(one.top1) and math.isfinite(cost) and cost > 0
            ]
            if known:
                rows, known_costs = zip(*known, strict=True)
                panels.append(_panel(rows, known_costs, what, unit, f"{name}{index}"))
        return panels


def _panel(rows: Sequence[CompactNetwork], costs: Sequence[float], what: str, unit: str, name: str) -> Panel:
    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        for family in COLORS:
            points = [(cost, row) for cost, row in zip(costs, rows, strict=True) if row.family == family]
            if not points:
                continue
            axes.plot(
                [cost for cost, _ in points], [row.top1 for _, row in points], MARKS[family], color=COLORS[family],
                ms=6, label=f"{family} convolution",
            )  # fmt: skip
        low, high = min(costs) / 1.35, max(costs) * 1.35
        bottom, top = min(row.top1 for row in rows) - 1.5, max(row.top1 for row in rows) + 1.5
        axes.set_xlim(low, high)
        axes.set_ylim(bottom, top)
        wide, tall = WIDTH - MARGINS[0] - MARGINS[2], HEIGHT - MARGINS[1] - MARGINS[3]
        places = [
            (wide * math.log(cost / low) / math.log(high / low), tall * (row.top1 - bottom) / (top - bottom))
            for row, cost in zip(rows, costs, strict=True)
        ]
        words = [row.title.replace(" width=", " ×").replace(" head=", ", head ") for row in rows]
        for row, cost, text, (dx, dy) in zip(rows, costs, words, names_beside(places, words, wide), strict=True):
            axes.annotate(
                text, (cost, row.top1), xytext=(dx, dy), textcoords="offset points", ha="left", va="center",
                color=MUTED, fontsize=9,
            )  # fmt: skip
        ticks = _ticks(min(costs), max(costs))
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(unit, color=INK)
        axes.grid(color=RULE, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, handlelength=1)  # above: it hides no point

    label = f"Published top-1 of {len(rows)} networks against {what}: " + "; ".join(
        f"{row.title} {row.top1:g} % at {cost:.3g} {unit}" for row, cost in zip(rows, costs, strict=True)
    )
    svg = picture(draw, name=name, label=label, width=WIDTH, height=HEIGHT, margins=MARGINS)
    return Panel(f"Top-1 against {what}", "published top-1 on ImageNet, %", svg)


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers for a logarithmic axis: 1, 2, 5, 10 ..."""
    found = [factor * 10.0**power for power in range(-3, 7) for factor in (1, 2, 5)]
    return [tick for tick in found if low / 1.3 <= tick <= high * 1.3]


Pixels = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, right, bottom and top, in pixels."""


def names_beside(points: Sequence[Pixels], words: Sequence[str], wide: float, bars: Sequence[Box] = ()) -> list[Pixels]:
    """Return the offset of each name from its point: right, left, above or below, at a free place.

    Names are centered vertically. If no place is free, the name goes to the place with the least overlap. `bars` are
    occupied places.

    >>> [(round(x), y) for x, y in names_beside([(50.0, 0.0), (60.0, 0.0)], ["one", "two"], 500.0)]
    [(-22, 0), (7, 0)]
    """
    taken: list[Box] = [*bars, *((x - 4, x + 4, y - 4, y + 4) for x, y in points)]
    found = []
    for (x, y), text in zip(points, words, strict=True):
        size = LETTER * len(text)
        best: tuple[float, Pixels, Box] | None = None
        offsets = ((7, 0), (-7 - size, 0), (-size / 2, 11), (-size / 2, -11), (7, 11), (7, -11), (-7 - size, 11),
                   (-7 - size, -11), (-size / 2, 22), (-size / 2, -22))  # fmt: skip
        for dx, dy in offsets:
            box = (x + dx, x + dx + size, y + dy - LINE / 2, y + dy + LINE / 2)
            covered = sum(_shared(box, other) for other in taken) + 100 * max(0.0, box[1] - wide)
            if best is None or covered < best[0]:
                best = covered, (dx, dy), box
        assert best is not None
        taken.append(best[2])
        found.append(best[1])
    return found


def _shared(one: Box, two: Box) -> float:
    across = min(one[1], two[1]) - max(one[0], two[0])
    down = min(one[3], two[3]) - max(one[2], two[2])
    return max(0.0, across) * max(0.0, down)
