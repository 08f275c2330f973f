"""Distributions of filter norms: all filters of a layer, and those that stayed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slimcnn.reporting import phrases
from slimcnn.reporting.contents import Norms
from slimcnn.reporting.figures.drawing import AFTER, BEFORE, RULE, Panel, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = 24
"""Shown at most."""
WIDTH, HEIGHT = 172, 96
MARGINS = (16, 4, 8, 18)
FINE = 160
"""Points of a curve at most: one per pixel."""


def norms(layers: Sequence[Norms]) -> list[Panel]:
    """Cumulative distributions of at most `PANELS` layers; of more, those that changed most, largest KS first."""
    chosen = [layer for layer in layers if np.isfinite([*layer.original, *layer.kept]).all()]
    chosen = [layer for layer in chosen if layer.original and layer.kept]
    if len(chosen) > PANELS:
        chosen = sorted(chosen, key=lambda layer: -layer.ks if math.isfinite(layer.ks) else 0.0)[:PANELS]
    return [_panel(layer, index) for index, layer in enumerate(chosen)]


def _panel(layer: Norms, index: int) -> Panel:
    def draw(axes: Axes) -> None:
        distributions(axes, layer.original, layer.kept)

    ks, before, after = phrases.distance(layer.ks), len(layer.original), len(layer.kept)
    label = f"Share of filters whose norm is at most x, {layer.layer}: {before} original, {after} kept, KS {ks}"
    svg = picture(draw, name=f"norms{index}", label=label, width=WIDTH, height=HEIGHT, margins=MARGINS)
    return Panel(phrases.short_name(layer.layer), f"KS {ks} · {before} → {after}", svg)


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
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: phrases.small(value)))
    return low, high


def cumulative(values: Sequence[float], low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The share of values at most x: every step of few values, one point per pixel of many."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if 2 * len(ordered) + 2 > FINE:
        x = np.linspace(low, high, FINE)
        return x, np.searchsorted(ordered, x, side="right") / len(ordered)
    share = np.arange(len(ordered) + 1) / len(ordered)
    return np.concatenate([[low], np.repeat(ordered, 2), [high]]), np.repeat(share, 2)
