"""Distributions of filter norms: all filters of a layer, and the kept ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from slimcnn.reporting import formatting
from slimcnn.reporting.figures.drawing import AFTER, BEFORE, RULE, Drawing, Panel, figures, picture
from slimcnn.reporting.sections import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = 24
"""Maximum number of panels."""
WIDTH, HEIGHT = 172, 96
MARGINS = (16, 4, 8, 18)
FINE = 160
"""Maximum number of points of a curve: about one per pixel."""


class LayerNorms(Part):
    """Filter norms of one layer: all filters of the original, and the kept ones."""

    layer: str
    original: tuple[float, ...]
    kept: tuple[float, ...]
    ks: float
    """Kolmogorov-Smirnov distance between the two distributions, 0 to 1."""


@figures.add("norms", source="slimcnn")
class Norms(Drawing):
    """Distributions of the filter norms of layers: all filters, and the kept ones.

    If there are more than 24 layers, the 24 with the largest KS are drawn, largest first.
    """

    layout: ClassVar[str] = "panels four"
    key: ClassVar[tuple[tuple[str, str], ...]] = (("original", "line"), ("kept", "line after"))

    layers: tuple[LayerNorms, ...]

    def panels(self, name: str) -> list[Panel]:
        """Draw one panel per layer, with both distribution functions."""
        return [_panel(layer, f"{name}{index}") for index, layer in enumerate(self.chosen)]

    @property
    def chosen(self) -> list[LayerNorms]:
        """The layers that are drawn."""
        found = [layer for layer in self.layers if np.isfinite([*layer.original, *layer.kept]).all()]
        found = [layer for layer in found if layer.original and layer.kept]
        if len(found) > PANELS:
            found = sorted(found, key=lambda layer: -layer.ks if math.isfinite(layer.ks) else 0.0)[:PANELS]
        return found

    @property
    def caption(self) -> str:
        """Explain the curves, and count the layers that are not shown."""
        words = (
            "Share of a layer’s filters with a norm of at most x: all filters of the original, and the kept filters. "
            "KS is the largest vertical distance between the curves, 0 to 1."
        )
        shown = len(self.chosen)
        if shown == len(self.layers):
            return words
        return (
            f"{words} {formatting.plural(shown, 'layer')} shown, largest KS first; "
            f"{formatting.plural(len(self.layers) - shown, 'layer')} not shown. report.json has all layers."
        )


def _panel(layer: LayerNorms, name: str) -> Panel:
    def draw(axes: Axes) -> None:
        distributions(axes, layer.original, layer.kept)

    ks, before, after = formatting.distance(layer.ks), len(layer.original), len(layer.kept)
    label = f"Share of filters whose norm is at most x, {layer.layer}: {before} original, {after} kept, KS {ks}"
    svg = picture(draw, name=name, label=label, width=WIDTH, height=HEIGHT, margins=MARGINS)
    return Panel(formatting.short_name(layer.layer), f"KS {ks} · {before} → {after}", svg)


def distributions(axes: Axes, original: Sequence[float], kept: Sequence[float]) -> tuple[float, float]:
    """Draw both distribution functions; return the range of norms shown."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    low, high = min(*original, *kept), max(*original, *kept)
    room = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
    low, high = low - room, high + room
    axes.axhline(1, color=RULE, linewidth=1)
    # The original's line is wider, so that it remains visible where both agree.
    axes.plot(*cumulative(original, low, high), color=BEFORE, linewidth=3.2, solid_joinstyle="round")
    axes.plot(*cumulative(kept, low, high), color=AFTER, linewidth=1.3, solid_joinstyle="round")
    axes.set_xlim(low, high)
    axes.set_ylim(0, 1.06)
    axes.set_yticks([0, 0.5, 1], ["0", "½", "1"])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: formatting.small(value)))
    return low, high


def cumulative(values: Sequence[float], low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x and the share of values at most x: all steps if there are few values, else one point per pixel."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if 2 * len(ordered) + 2 > FINE:
        x = np.linspace(low, high, FINE)
        return x, np.searchsorted(ordered, x, side="right") / len(ordered)
    share = np.arange(len(ordered) + 1) / len(ordered)
    return np.concatenate([[low], np.repeat(ordered, 2), [high]]), np.repeat(share, 2)
