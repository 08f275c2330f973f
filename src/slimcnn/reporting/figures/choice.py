"""Distributions of filter norms under several criteria: one row per layer, one column per criterion."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from slimcnn.reporting import formatting
from slimcnn.reporting.figures.drawing import AFTER, BEFORE, Drawing, Panel, figures, picture
from slimcnn.reporting.figures.norms import MARGINS, distributions
from slimcnn.reporting.sections import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 16
WIDTH, HEIGHT = 230, 110
TALLEST = 0.55
"""Height of the tallest bar; the curves reach 1."""


class KeptNorms(Part):
    """The norms of the filters that one criterion keeps."""

    criterion: str
    kept: tuple[float, ...]
    ks: float
    """Kolmogorov-Smirnov distance to the norms of all filters, 0 to 1."""
    w1: float
    """Wasserstein distance to the norms of all filters, as a share of their mean."""


class LayerChoices(Part):
    """The norms of all filters of a layer, and of those that each criterion keeps."""

    layer: str
    original: tuple[float, ...]
    choices: tuple[KeptNorms, ...]


@figures.add("choice", source="slimcnn")
class Choice(Drawing):
    """Histograms and distribution functions of filter norms, of all filters and of those that each criterion keeps."""

    key: ClassVar[tuple[tuple[str, str], ...]] = (("all filters", "line"), ("kept", "line after"))

    layers: tuple[LayerChoices, ...]

    def panels(self, name: str) -> list[Panel]:
        """Draw one panel per layer and criterion, if there are finite norms."""
        several = len(self.layers) > 1
        return [
            _panel(f"{name}{number}x{column}", layer, found, several)
            for number, layer in enumerate(self.layers)
            for column, found in enumerate(layer.choices)
            if layer.original and found.kept and np.isfinite([*layer.original, *found.kept]).all()
        ]

    @property
    def caption(self) -> str:
        """Explain bars, lines and distances."""
        return (
            "Bars: number of filters by L2 norm. Lines: share of filters with a norm of at most x. KS: largest "
            "vertical distance between the lines, 0 to 1. W1: area between the lines, as a share of the mean norm."
        )


def _panel(name: str, layer: LayerChoices, found: KeptNorms, several: bool) -> Panel:
    def draw(axes: Axes) -> None:
        low, high = distributions(axes, layer.original, found.kept)
        edges = np.linspace(low, high, BINS + 1)
        all_, kept = (np.histogram(values, edges)[0] for values in (layer.original, found.kept))
        scale = TALLEST / max(all_.max(), 1)
        axes.bar(edges[:-1], all_ * scale, edges[1] - edges[0], align="edge", color=BEFORE, alpha=0.25, linewidth=0)
        axes.bar(edges[:-1], kept * scale, edges[1] - edges[0], align="edge", color=AFTER, alpha=0.45, linewidth=0)

    ks, w1 = formatting.distance(found.ks), formatting.distance(found.w1)
    label = (
        f"Norms of the filters of {layer.layer}: {len(layer.original)} in the original, {len(found.kept)} kept by "
        f"{found.criterion}, KS {ks}, W1 {w1}"
    )
    svg = picture(draw, name=name, label=label, width=WIDTH, height=HEIGHT, margins=MARGINS)
    title = f"{found.criterion} · {formatting.short_name(layer.layer)}" if several else found.criterion
    return Panel(title, f"KS {ks} · W1 {w1}", svg)
