"""Batch norm scales and channel relations of a network, with the cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slimcnn.reporting import formatting
from slimcnn.reporting.figures.drawing import AFTER, BEFORE, INK, Drawing, Panel, figures, picture
from slimcnn.reporting.sections import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 240, 180
BINS = 40
MARGINS = (42, 6, 8, 32)


class LayerScales(Part):
    """Batch norm scales of one layer's channels, and their relations to the other channels of the layer."""

    layer: str
    gamma: tuple[float, ...]
    """Absolute values."""
    sr: tuple[float, ...]
    """Between 0 and 1; empty without relations."""
    kept: tuple[bool, ...]


@figures.add("scales", source="slimcnn")
class Scales(Drawing):
    """Batch norm scales and channel relations of a network, with the cut."""

    criterion: str
    """The criterion that selected the channels; the cut is drawn as a line for "gfr"."""
    layers: tuple[LayerScales, ...]

    def panels(self, name: str) -> list[Panel]:
        """Draw histograms of gamma and, if there are relations, of sr, and sr against gamma with the cut line."""
        gamma = np.array([value for layer in self.layers for value in layer.gamma])
        kept = np.array([value for layer in self.layers for value in layer.kept], dtype=bool)
        if not np.isfinite(gamma).any():
            return []
        panels = [_histogram(f"{name}gamma", "Scales |γ|", gamma, kept)]
        if all(layer.sr for layer in self.layers):
            sr = np.array([value for layer in self.layers for value in layer.sr])
            panels += [
                _histogram(f"{name}sr", "Relations sr", sr, kept),
                _scatter(f"{name}both", gamma, sr, kept, _exponent(self.criterion)),
            ]
        return panels


def _histogram(name: str, title: str, values: np.ndarray, kept: np.ndarray) -> Panel:
    largest = max(float(values[np.isfinite(values)].max(initial=0)), 1e-12)
    edges: list[float] = np.linspace(0, largest, BINS + 1).tolist()

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        axes.hist(values, edges, color=BEFORE, alpha=0.35, label="all channels")
        axes.hist(values[kept], edges, color=AFTER, alpha=0.7, label="kept")
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_locator(FixedLocator([0, 1, 10, 100, 1000, 10000]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.legend(loc="upper right", handlelength=1.2)

    label = f"{title}: {len(values)} channels, median {np.median(values):.3g}"
    label += f"; median of the kept channels {np.median(values[kept]):.3g}" if kept.any() else "; none is kept"
    svg = picture(draw, name=name, label=label, width=WIDTH, height=HEIGHT, margins=MARGINS)
    small = float((values < 0.01 * largest).mean())
    return Panel(title, f"{100 * small:.0f} % below 1 % of the largest", svg)


def _exponent(criterion: str) -> float | None:
    """Parse a of |gamma|^a sr^(1 - a) from a criterion's name; None for other criteria.

    >>> _exponent("gfr"), _exponent("gfr:a=0.25"), _exponent("l2")
    (0.5, 0.25, None)
    """
    name, _, option = criterion.partition(":a=")
    return (float(option) if option else 0.5) if name == "gfr" else None


def _scatter(name: str, gamma: np.ndarray, sr: np.ndarray, kept: np.ndarray, a: float | None) -> Panel:
    def draw(axes: Axes) -> None:
        axes.plot(gamma[~kept], sr[~kept], ".", color=BEFORE, ms=2.5, alpha=0.6, label="removed")
        axes.plot(gamma[kept], sr[kept], ".", color=AFTER, ms=2.5, alpha=0.7, label="kept")
        if a is not None and a < 1 and not kept.all():
            border = float((gamma**a * sr ** (1 - a))[~kept].max())
            x = np.linspace(max(float(gamma.max()) / 500, 1e-9), float(gamma.max()), 200)
            y = (border / x**a) ** (1 / (1 - a))
            axes.plot(x[y <= 1], y[y <= 1], color=INK, linewidth=1, dashes=(2, 2), label="last removed")
        axes.set_xlabel("|γ|")
        axes.set_ylim(-0.03, 1.03)
        axes.legend(loc="best", handlelength=1.0)

    label = f"sr against gamma: {int(kept.sum())} channels kept, {int((~kept).sum())} removed"
    svg = picture(draw, name=name, label=label, width=WIDTH, height=HEIGHT, margins=MARGINS)
    return Panel("sr against |γ|", f"{formatting.plural(int((~kept).sum()), 'channel')} removed", svg)
