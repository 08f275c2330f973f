"""A histogram and a distribution function: all filters of a layer, and those that a criterion keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slimcnn.reporting import phrases
from slimcnn.reporting.figures.drawing import AFTER, BEFORE, RULE, Panel, picture
from slimcnn.reporting.figures.norms import cumulative

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from slimcnn.reporting.choices import LayerNorms

BINS = 16
WIDTH, HEIGHT = 230, 110
TALLEST = 0.55
"""Height of the tallest bar, where the curves reach 1."""


def choice(layer: LayerNorms, number: int, column: int) -> Panel:
    """Bars say how many filters have such a norm, lines which share has at most such a norm."""
    found = layer.choices[column]
    low, high = min(layer.original), max(layer.original)
    room = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
    low, high = low - room, high + room

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        edges = np.linspace(low, high, BINS + 1)
        all_, kept = (np.histogram(values, edges)[0] for values in (layer.original, found.kept))
        scale = TALLEST / max(all_.max(), 1)
        axes.axhline(1, color=RULE, linewidth=1)
        axes.bar(edges[:-1], all_ * scale, edges[1] - edges[0], align="edge", color=BEFORE, alpha=0.25, linewidth=0)
        axes.bar(edges[:-1], kept * scale, edges[1] - edges[0], align="edge", color=AFTER, alpha=0.45, linewidth=0)
        axes.plot(*cumulative(layer.original, low, high), color=BEFORE, linewidth=3.2, solid_joinstyle="round")
        axes.plot(*cumulative(found.kept, low, high), color=AFTER, linewidth=1.3, solid_joinstyle="round")
        axes.set_xlim(low, high)
        axes.set_ylim(0, 1.06)
        axes.set_yticks([0, 0.5, 1], ["0", "½", "1"])
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: phrases.small(value)))

    ks, w1 = phrases.distance(found.ks), phrases.distance(found.w1)
    label = (
        f"Norms of the filters of {layer.layer}: {len(layer.original)} in the original, {len(found.kept)} kept by "
        f"{found.criterion}, KS {ks}, W1 {w1}"
    )
    svg = picture(
        draw, name=f"choice{number}x{column}", label=label, width=WIDTH, height=HEIGHT, margins=(16, 4, 8, 18)
    )
    return Panel(found.criterion, f"KS {ks} · W1 {w1}", svg)
