"""How many channels every group had and has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from slimcnn.reporting import formatting
from slimcnn.reporting.figures.drawing import (
    AFTER,
    BEFORE,
    INK,
    MUTED,
    Drawing,
    Panel,
    beside,
    figures,
    picture,
)
from slimcnn.reporting.sections import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, ROW, MARGIN, GAP = 340, 17, 2, 7
LETTER = 5.9
"""Pixels of one letter, about."""
ONE_COLUMN = 12
"""Groups that stand in a single picture."""
TALL = 25
"""Groups in one picture at most, where there are more."""


class Group(Part):
    """A channel group: how many channels it had, and how many it has."""

    name: str
    channels: int
    kept: int


@figures.add("widths", source="slimcnn")
class Widths(Drawing):
    """Channels of every group before and after, as bars.

    The length of a bar grows with the width before, its colored share is the share of channels kept. Lengths are
    square roots: in one network 32 channels stand beside 2048, and both must be seen. Many groups are spread evenly
    over an even number of pictures, to stand in two columns.
    """

    layout: ClassVar[str] = "columns"
    key: ClassVar[tuple[tuple[str, str], ...]] = (("before", "faint"), ("after", "after"))

    groups: tuple[Group, ...]

    def panels(self, name: str) -> list[Panel]:
        """One picture, or an even number of them."""
        if not self.groups:
            return []
        n = len(self.groups)
        pictures = 1 if n <= ONE_COLUMN else 2 * math.ceil(n / (2 * TALL))
        rows = math.ceil(n / pictures)
        names = [formatting.short_name(group.name) for group in self.groups]
        changes = [_change(group) for group in self.groups]
        frame = Frame(
            widest=max(1, *(group.channels for group in self.groups)),
            left=LETTER * max(map(len, names)) + GAP,
            right=LETTER * max(map(len, changes)) + GAP,
        )
        parts = [slice(start, start + rows) for start in range(0, n, rows)]
        return [
            Panel("", "", _bars(self.groups[part], names[part], changes[part], frame, f"{name}{part.start}"))
            for part in parts
        ]

    @property
    def caption(self) -> str:
        """Say what the length of a bar means."""
        return "The length of a bar is the square root of the width; the colored share of it is what was kept."


@dataclass(frozen=True)
class Frame:
    """What all pictures of widths share: channels of the longest bar, and pixels left and right of the bars."""

    widest: int
    left: float
    right: float


def _change(group: Group) -> str:
    return f"{group.channels} → {group.kept}" if group.kept != group.channels else f"{group.channels}"


def _bars(groups: Sequence[Group], names: Sequence[str], changes: Sequence[str], frame: Frame, name: str) -> str:
    def draw(axes: Axes) -> None:
        places = range(len(groups))
        lengths = [math.sqrt(group.channels / frame.widest) for group in groups]
        kept = [length * group.kept / max(group.channels, 1) for length, group in zip(lengths, groups, strict=True)]
        axes.barh(places, lengths, height=0.58, color=BEFORE, alpha=0.45)
        axes.barh(places, kept, height=0.58, color=AFTER)
        for place, group, heading, change in zip(places, groups, names, changes, strict=True):
            beside(axes, heading, 0, place, -GAP, INK)
            beside(axes, change, 1, place, frame.right, INK if group.kept != group.channels else MUTED)
        axes.set_axis_off()
        axes.set_xlim(0, 1)
        axes.set_ylim(len(groups) - 0.5, -0.5)

    first, last = groups[0].name, groups[-1].name
    return picture(
        draw,
        name=name,
        label=f"Channels before and after, {first} to {last}: every number is in the table of widths",
        width=WIDTH,
        height=ROW * len(groups) + 2 * MARGIN,
        margins=(frame.left, MARGIN, frame.right, MARGIN),
    )
