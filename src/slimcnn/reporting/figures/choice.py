"""A histogram and a distribution function: all filters of a layer, and those that a criterion keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slimcnn.reporting import phrases
from slimcnn.reporting.figures.drawing import AFTER, BEFORE, Panel, picture
from slimcnn.reporting.figures.norms import MARGINS, distributions

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

    def draw(axes: Axes) -> None:
        low, high = distributions(axes, layer.original, found.kept)
        edges = np.linspace(low, high, BINS + 1)
        all_, kept = (np.histogram(values, edges)[0] for values in (layer.original, found.kept))
        scale = TALLEST / max(all_.max(), 1)
        axes.bar(edges[:-1], all_ * scale, edges[1] - edges[0], align="edge", color=BEFORE, alpha=0.25, linewidth=0)
        axes.bar(edges[:-1], kept * scale, edges[1] - edges[0], align="edge", color=AFTER, alpha=0.45, linewidth=0)

    ks, w1 = phrases.distance(found.ks), phrases.distance(found.w1)
    label = (
        f"Norms of the filters of {layer.layer}: {len(layer.original)} in the original, {len(found.kept)} kept by "
        f"{found.criterion}, KS {ks}, W1 {w1}"
    )
    svg = picture(draw, name=f"choice{number}x{column}", label=label, width=WIDTH, height=HEIGHT, margins=MARGINS)
    return Panel(found.criterion, f"KS {ks} · W1 {w1}", svg)
