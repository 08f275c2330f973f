"""Channels of every group before and after pruning."""

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
"""Approximate width of a letter in pixels."""
ONE_COLUMN = 12
"""Maximum number of groups in a single panel."""
TALL = 25
"""Maximum number of groups per panel if there are several panels."""


class Group(Part):
    """A channel group: channels before and after pruning."""

    name: str
    channels: int
    kept: int


@figures.add("widths", source="slimcnn")
class Widths(Drawing):
    """Channels of every group before and after pruning, as bars.

    The length of a bar is the square root of the width before pruning, so that 32 channels are visible next to 2048.
    The colored part is the share of channels kept. Many groups are spread evenly over an even number of panels, in
    two columns.
    """

    layout: ClassVar[str] = "columns"
    key: ClassVar[tuple[tuple[str, str], ...]] = (("before", "faint"), ("after", "after"))

    groups: tuple[Group, ...]

    def panels(self, name: str) -> list[Panel]:
        """Draw one panel, or an even number of panels."""
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
        """Explain the bars."""
        return "The length of a bar is the square root of the width; the colored part is the share of channels kept."


@dataclass(frozen=True)
class Frame:
    """The common layout of all panels: channels of the longest bar, and pixels to the left and right of the bars."""

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
        label=f"Channels before and after, {first} to {last}: the table of widths lists all numbers",
        width=WIDTH,
        height=ROW * len(groups) + 2 * MARGIN,
        margins=(frame.left, MARGIN, frame.right, MARGIN),
    )
