"""Distributions of filter norms: all filters of a layer, and those that stayed."""

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
"""Shown at most."""
WIDTH, HEIGHT = 172, 96
MARGINS = (16, 4, 8, 18)
FINE = 160
"""Points of a curve at most: one per pixel."""


class LayerNorms(Part):
    """Filter norms of one layer: all of the original's, and those that were kept."""

    layer: str
    original: tuple[float, ...]
    kept: tuple[float, ...]
    ks: float
    """Kolmogorov-Smirnov distance between the two distributions, 0 to 1."""


@figures.add("norms", source="slimcnn")
class Norms(Drawing):
    """Distributions of the filter norms of layers: all filters, and those that were kept.

    At most 24 layers are drawn; of more, those that changed most, largest KS first.
    """

    layout: ClassVar[str] = "panels four"
    key: ClassVar[tuple[tuple[str, str], ...]] = (("original", "line"), ("kept", "line after"))

    layers: tuple[LayerNorms, ...]

    def panels(self, name: str) -> list[Panel]:
        """One distribution function a layer."""
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
        """Say what is drawn, and how many layers are not."""
        words = (
            "The share of a layer’s filters whose norm is at most x: all filters of the original, and those that were "
            "kept. KS is the largest vertical distance between the two, 0 to 1."
        )
        shown = len(self.chosen)
        if shown == len(self.layers):
            return words
        return (
            f"{words} {formatting.plural(shown, 'layer')} shown, those with the largest KS first; "
            f"{formatting.plural(len(self.layers) - shown, 'layer')} not shown. All of them are in report.json."
        )


def _panel(layer: LayerNorms, name: str) -> Panel:
    def draw(axes: Axes) -> None:
        distributions(axes, layer.original, layer.kept)

    ks, before, after = formatting.distance(layer.ks), len(layer.original), len(layer.kept)
    label = f"Share of filters whose norm is at most x, {layer.layer}: {before} original, {after} kept, KS {ks}"
    svg = picture(draw, name=name, label=label, width=WIDTH, height=HEIGHT, margins=MARGINS)
    return Panel(formatting.short_name(layer.layer), f"KS {ks} · {before} → {after}", svg)


def distributions(axes: Axes, original: Sequence[float], kept: Sequence[float]) -> tuple[float, float]:
    """Draw both distribution functions; give the range of norms shown."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    low, high = min(*original, *kept), max(*original, *kept)
    room = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
    low, high = low - room, high + room
    axes.axhline(1, color=RULE, linewidth=1)
    # Where both agree the line of the original shows on both sides of the other.
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
    """The share of values at most x: every step of few values, one point per pixel of many."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if 2 * len(ordered) + 2 > FINE:
        x = np.linspace(low, high, FINE)
        return x, np.searchsorted(ordered, x, side="right") / len(ordered)
    share = np.arange(len(ordered) + 1) / len(ordered)
    return np.concatenate([[low], np.repeat(ordered, 2), [high]]), np.repeat(share, 2)
