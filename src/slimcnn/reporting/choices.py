"""A page that shows what criteria do to the distribution of filter norms: one row a layer, one column a criterion."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from slimcnn.reporting import figures
from slimcnn.reporting.page import template


@dataclass(frozen=True)
class Choice:
    """The norms of the filters that one criterion keeps."""

    criterion: str
    kept: tuple[float, ...]
    ks: float
    """Kolmogorov-Smirnov distance to the norms of all filters, 0 to 1."""
    w1: float
    """Wasserstein distance to them, as a share of their mean."""


@dataclass(frozen=True)
class LayerNorms:
    """The norms of all filters of a layer, and what criteria keep of them."""

    layer: str
    original: tuple[float, ...]
    choices: tuple[Choice, ...]


def render_choices(network: str, target: str, layers: Sequence[LayerNorms]) -> str:
    """One self-contained HTML page, like the report's."""
    with figures.house_style():
        panels = [
            [figures.choice(layer, number, i) for i in range(len(layer.choices))]
            for number, layer in enumerate(layers)
        ]  # fmt: skip
    return template("norms.html").render(
        title=f"Filter norms of {network}",
        headline=f"What each criterion does to the distribution of the norms: {target}",
        layers=list(zip(layers, panels, strict=True)),
        means=_means(layers),
    )


def _means(layers: Sequence[LayerNorms]) -> list[tuple[str, float, float]]:
    """Average over layers: (criterion, KS, W1)."""
    columns = zip(*(layer.choices for layer in layers), strict=True)
    return [
        (column[0].criterion, statistics.mean(c.ks for c in column), statistics.mean(c.w1 for c in column))
        for column in columns
    ]
