"""The page of compact networks: published accuracy against what a network costs here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slimcnn.reporting import figures
from slimcnn.reporting.page import template


@dataclass(frozen=True)
class ZooRow:
    """What the page says of a network."""

    title: str
    family: str
    params: int
    macs: int
    published: str
    """Parameters and MACs as printed."""
    top1: float
    source: str
    note: str
    milliseconds: tuple[float, ...]
    """Median in each runtime."""


def render_zoo(headline: str, runtimes: Sequence[str], rows: Sequence[ZooRow], measured_on: str) -> str:
    """One self-contained HTML page: a table, and accuracy against MACs and against the time in every runtime."""
    with figures.house_style():
        panels = [figures.trade(rows, [row.macs / 1e6 for row in rows], "MACs", "MACs, millions", "macs")]
        for index, runtime in enumerate(runtimes):
            times = [row.milliseconds[index] for row in rows]
            panels.append(figures.trade(rows, times, runtime, "ms", f"time{index}"))
    return template("zoo.html").render(
        title="Compact networks on ImageNet", headline=headline, runtimes=runtimes, rows=rows, panels=panels,
        measured_on=measured_on,
    )  # fmt: skip
