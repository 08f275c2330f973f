"""Accuracy against time of networks in several runtimes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from slimcnn.reporting import formatting
from slimcnn.reporting.figures.drawing import AFTER, BEFORE, INK, MUTED, RULE, Drawing, Panel, around, figures, picture
from slimcnn.reporting.figures.trade import names_beside
from slimcnn.reporting.outcome import MetricName
from slimcnn.reporting.sections import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 720, 320
MARGINS = (44, 10, 10, 38)
STYLES = ((BEFORE, "o"), (AFTER, "s"), (INK, "D"), (MUTED, "^"))
"""Color and marker of each network; the list repeats if there are more networks."""


class TimedNetwork(Part):
    """One network in one runtime."""

    network: str
    runtime: str
    milliseconds: tuple[float, float, float]
    """Time of one call: lower quartile, median, upper quartile."""
    score: float
    """The metric in that runtime, in its unit."""
    setting: str
    """Batch size and threads; networks with the same setting share a panel."""
    ship: bool = False
    """Whether this network is recommended."""


@figures.add("benchmark", source="slimcnn")
class Timings(Drawing):
    """Accuracy of networks against the time of a call in every runtime, one panel per batch size and thread count."""

    layout: ClassVar[str] = "panels wide"

    points: tuple[TimedNetwork, ...]
    images: str
    """The images that the metric was measured on."""
    metric: MetricName = MetricName()

    def panels(self, name: str) -> list[Panel]:
        """Draw one panel per setting; networks with unknown accuracy or time are left out."""
        known = [
            one for one in self.points if math.isfinite(one.score) and all(0 < t < math.inf for t in one.milliseconds)
        ]
        networks = list(dict.fromkeys(one.network for one in self.points))
        settings = dict.fromkeys(one.setting for one in known)
        return [
            _panel([one for one in known if one.setting == setting], networks, setting, self, f"{name}{index}")
            for index, setting in enumerate(settings)
        ]

    @property
    def caption(self) -> str:
        """Explain the bars and the circle."""
        return "Bars: lower to upper quartile of the calls. Circle: the recommended network."


def _panel(points: Sequence[TimedNetwork], networks: Sequence[str], setting: str, figure: Timings, name: str) -> Panel:
    times = [time for one in points for time in one.milliseconds]
    low, high = min(times) / 1.35, max(times) * 1.6
    metric = figure.metric
    bottom, top = around([one.score for one in points], 0.25, metric)

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        for index, network in enumerate(networks):
            color, mark = STYLES[index % len(STYLES)]
            own = [one for one in points if one.network == network]
            if own:
                _plot(axes, own, color, mark, formatting.short_name(network, 24))
        axes.set_xlim(low, high)
        axes.set_ylim(bottom, top)
        _label(axes, points, low, high, bottom, top)
        ticks = [f * 10.0**p for p in range(-4, 7) for f in (1, 2, 5) if low <= f * 10.0**p <= high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("ms per call", color=INK)
        axes.grid(color=RULE, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.legend(loc="lower right", handlelength=1)

    networks_drawn = f"{formatting.capital(metric.name)} of {formatting.plural(len(points), 'network')}"
    label = f"{networks_drawn} against milliseconds, {setting}: " + "; ".join(
        f"{one.network} in {one.runtime} {metric.written(one.score)} at {one.milliseconds[1]:.3g} ms" for one in points
    )
    svg = picture(draw, name=name, label=label, width=WIDTH, height=HEIGHT, margins=MARGINS)
    title = f"{formatting.capital(metric.title)}, against milliseconds, {setting}"
    return Panel(title, figure.images + metric.direction, svg)


def _plot(axes: Axes, own: Sequence[TimedNetwork], color: str, mark: str, label: str) -> None:
    for one in own:
        axes.plot(one.milliseconds[::2], [one.score, one.score], color=color, linewidth=1)
    axes.plot(
        [one.milliseconds[1] for one in own], [one.score for one in own], mark, color=color, ms=5, linestyle="none",
        label=label,
    )  # fmt: skip
    for one in own:
        if one.ship:
            axes.plot([one.milliseconds[1]], [one.score], "o", ms=13, markerfacecolor="none", markeredgecolor=color)


def _label(axes: Axes, points: Sequence[TimedNetwork], low: float, high: float, bottom: float, top: float) -> None:
    """Write the runtime next to each point."""
    wide, tall = WIDTH - MARGINS[0] - MARGINS[2], HEIGHT - MARGINS[1] - MARGINS[3]

    def across(milliseconds: float) -> float:
        return wide * math.log(milliseconds / low) / math.log(high / low)

    heights = [tall * (one.score - bottom) / (top - bottom) for one in points]
    places = [(across(one.milliseconds[1]), y) for one, y in zip(points, heights, strict=True)]
    bars = [
        (across(one.milliseconds[0]), across(one.milliseconds[2]), y - 2, y + 2)
        for one, y in zip(points, heights, strict=True)
    ]
    words = [one.runtime for one in points]
    for one, text, (dx, dy) in zip(points, words, names_beside(places, words, wide, bars), strict=True):
        axes.annotate(
            text, (one.milliseconds[1], one.score), xytext=(dx, dy), textcoords="offset points", ha="left", va="center",
            color=MUTED, fontsize=9,
        )  # fmt: skip
