"""The channel graph as a picture: modules as boxes, layers as bars, channel groups as colors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import ClassVar

from pydantic import Field

from slimcnn.reporting import formatting
from slimcnn.reporting.figures.drawing import Drawing, Panel, figures
from slimcnn.reporting.sections import Part

PALETTE = (
    "#1a83db #cc572a #14938d #bc549e #5f9205 #7071dd #b17000 #158eab #cc4f6a #049863 #9d60c6 #928100 "
    "#52a9fe #f67d51 #1dbcb5 #e579c4 #83b83f #9499fd #e19005 #09b7dc #f6758e #12c281 #c385ef #bba500"
).split()
"""Twelve hues at two lightnesses, visible on white and on black; neighbors in the list differ in hue."""
RESERVED = 12
"""Maximum number of colors that are kept for groups of several boxes if there are more groups than colors."""

WIDTH, NAME, BAR, LINE, GAP = 340, 17, 12, 3, 10
"""Pixels: a bar of the widest layer, the height of a name, of a bar, of the line of MACs, and between layers."""
WHY = 15
"""Height of the reason of a lock."""
LONGEST = 8
"""Most layers in a panel."""
NAME_LETTERS, WHY_LETTERS, TITLE_LETTERS = 24, 60, 44


class ChannelRun(Part):
    """Output channels of a layer that belong to one group, or that are locked for one reason."""

    channels: int = Field(ge=1)
    group: int | None
    """Index of the group; None: locked."""
    reason: str = ""
    where: str = ""
    """The line of code that locks the channels, if it is known."""


class ChannelLayer(Part):
    """A convolution or linear layer."""

    name: str
    label: str
    """The name inside of its box."""
    macs: int = Field(ge=0)
    runs: tuple[ChannelRun, ...]
    """All output channels, the locked ones last; empty for a product without weights."""

    @property
    def channels(self) -> int:
        """The number of output channels."""
        return sum(run.channels for run in self.runs)


class ChannelBox(Part):
    """A module that repeats in the network, or layers that follow each other outside of such modules."""

    title: str
    layers: tuple[ChannelLayer, ...] = Field(min_length=1)


@figures.add("channel_graph", source="slimcnn")
class ChannelPicture(Drawing):
    """The channel graph: modules as boxes, layers as bars, channel groups as colors."""

    layout: ClassVar[str] = "blocks"
    key: ClassVar[tuple[tuple[str, str], ...]] = (
        ("bar: channels (square root)", "groups"), ("locked channels", "hatched"), ("line: share of MACs", "line"),
    )  # fmt: skip

    boxes: tuple[ChannelBox, ...]
    groups: tuple[str, ...]
    """Names of the groups."""

    def panels(self, name: str) -> list[Panel]:
        """Draw one panel per box, and several for a long one, such as a VGG's only one, so that they fill the page."""
        layers = [layer for box in self.boxes for layer in box.layers]
        scale = Scale(
            widest=max([1, *(layer.channels for layer in layers)]),
            most_macs=max([1, *(layer.macs for layer in layers)]),
            macs=max(1, sum(layer.macs for layer in layers)),
            colors=_colors(self.boxes),
            labels=_group_labels(self.groups, layers),
        )
        boxes = [piece for box in self.boxes for piece in _pieces(box)]
        return [_panel(box, scale, f"{name}{number}") for number, box in enumerate(boxes)]

    @property
    def caption(self) -> str:
        """How to read the picture."""
        words = (
            "Boxes: modules in the order of the network. Bars: their layers. Bars of one color lose the same channels. "
            "Point at a bar for its group, or for the reason of a lock."
        )
        used = {run.group for box in self.boxes for layer in box.layers for run in layer.runs} - {None}
        if len(used) <= len(PALETTE):
            return words
        return (
            f"{words} {len(used)} groups share {len(PALETTE)} colors: bars far apart may differ in spite of one color."
        )


def _pieces(box: ChannelBox) -> list[ChannelBox]:
    """Cut a long box into pieces of about equal length."""
    count = math.ceil(len(box.layers) / LONGEST)
    length = math.ceil(len(box.layers) / count)
    if count == 1:
        return [box]
    return [
        ChannelBox(title=f"{box.title} ({number + 1} of {count})", layers=box.layers[number * length :][:length])
        for number in range(count)
    ]


@dataclass(frozen=True)
class Scale:
    """What all boxes share: the widest layer, MACs, colors and the labels of groups."""

    widest: int
    most_macs: int
    macs: int
    colors: dict[int, str]
    labels: dict[int, str]


def _colors(boxes: Sequence[ChannelBox]) -> dict[int, str]:
    """Return the color of every group; groups of several boxes come first and share theirs with no other if possible.

    All groups differ if there are enough colors. Otherwise groups of a single box take turns with the other colors.
    """
    spread: Counter[int] = Counter()
    for box in boxes:
        groups = [run.group for layer in box.layers for run in layer.runs if run.group is not None]
        spread.update(dict.fromkeys(groups, 1))
    order = sorted(spread, key=lambda group: spread[group] < 2)  # stable: in the order of the network
    wide = sum(boxes > 1 for boxes in spread.values())
    kept = 0 if len(order) <= len(PALETTE) else min(wide, RESERVED)
    turns = PALETTE[kept:]
    return {
        group: PALETTE[rank] if rank < kept else turns[(rank - kept) % len(turns)] for rank, group in enumerate(order)
    }


def _group_labels(names: Sequence[str], layers: Sequence[ChannelLayer]) -> dict[int, str]:
    """Return the name of every group with the number of its layers."""
    count = Counter(group for layer in layers for group in {run.group for run in layer.runs})
    return {
        group: f"{names[group] if group < len(names) else group} ({formatting.plural(count[group], 'layer')})"
        for group in count
        if group is not None
    }


def _panel(box: ChannelBox, scale: Scale, name: str) -> Panel:
    shapes: list[str] = []
    y = 0
    for layer in box.layers:
        shapes += _layer(layer, scale, y, name)
        y += _height(layer)
    high = y - GAP
    label = f"{box.title}: " + ", ".join(f"{layer.label} {_channels(layer)}" for layer in box.layers)
    hatch = (
        f'<pattern id="{name}hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect width="5" height="5" fill="var(--rule)"/><rect width="2" height="5" fill="var(--muted)"/></pattern>'
    )
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {high}" width="{WIDTH}" height="{high}" role="img"><title>{escape(label)}</title>'
        f"<defs>{hatch}</defs>{''.join(shapes)}</svg>"
    )
    macs = sum(layer.macs for layer in box.layers)
    note = f"{formatting.plural(len(box.layers), 'layer')}, {_share(macs, scale.macs)} of MACs"
    return Panel(formatting.short_name(box.title, TITLE_LETTERS), note, svg)


def _height(layer: ChannelLayer) -> int:
    return NAME + BAR + 2 + LINE + (WHY if _why(layer) else 0) + GAP


def _layer(layer: ChannelLayer, scale: Scale, y: int, name: str) -> Iterator[str]:
    """Draw the name, the bar, the line of MACs, and the reason of a lock."""
    said = f"{_channels(layer)}, {_share(layer.macs, scale.macs)}"
    yield _text(0, y + 12, formatting.short_name(layer.label or "network", NAME_LETTERS), "ink", 12)
    yield _text(WIDTH, y + 12, said, "muted", 11, anchor="end")
    top, x = y + NAME, 0.0
    whole = WIDTH * math.sqrt(layer.channels / scale.widest)
    for run in layer.runs:
        wide = whole * run.channels / layer.channels
        fill = f"url(#{name}hatch)" if run.group is None else scale.colors[run.group]
        hint = escape(_hint(layer, run, scale))
        yield (
            f'<rect x="{x:.1f}" y="{top}" width="{wide:.1f}" height="{BAR}" fill="{fill}"><title>{hint}</title></rect>'
        )
        x += wide
    line = WIDTH * layer.macs / scale.most_macs
    hint = escape(f"{layer.name}: {formatting.count(layer.macs)} MACs, {_share(layer.macs, scale.macs)}")
    yield (
        f'<rect x="0" y="{top + BAR + 2}" width="{line:.1f}" height="{LINE}" fill="var(--before)" opacity="0.7">'
        f"<title>{hint}</title></rect>"
    )
    if why := _why(layer):
        yield _text(0, top + BAR + 2 + LINE + 12, _cut(why), "muted", 11)


def _hint(layer: ChannelLayer, run: ChannelRun, scale: Scale) -> str:
    """Return what a reader sees who points at a bar."""
    if run.group is not None:
        return f"{layer.name}: {formatting.plural(run.channels, 'channel')} of group {scale.labels[run.group]}"
    where = f", {run.where}" if run.where else ""
    return (
        f"{layer.name}: {run.channels:,} of {formatting.plural(layer.channels, 'channel')} locked: {run.reason}{where}"
    )


def _why(layer: ChannelLayer) -> str:
    """Return the reasons of the layer's locked channels; empty if none is locked."""
    reasons = dict.fromkeys(run.reason for run in layer.runs if run.group is None)
    return f"locked: {'; '.join(reasons)}" if reasons else ""


def _cut(words: str) -> str:
    words = " ".join(words.split())
    return words if len(words) <= WHY_LETTERS else f"{words[: WHY_LETTERS - 1]}…"


def _channels(layer: ChannelLayer) -> str:
    return formatting.plural(layer.channels, "channel") if layer.runs else "no weights"


def _share(part: int, whole: int) -> str:
    """Format a share in percent.

    >>> _share(123, 1000), _share(1, 100_000), _share(0, 1000)
    ('12.3 %', '< 0.1 %', '0 %')
    """
    percent = 100 * part / whole
    return "0 %" if part == 0 else "< 0.1 %" if percent < 0.1 else f"{percent:.1f} %"


def _text(x: float, y: float, words: str, color: str, size: int, anchor: str = "start") -> str:
    style = f"fill: var(--{color}); font-size: {size}px; text-anchor: {anchor}"
    return f'<text x="{x:g}" y="{y:g}" style="{style}">{escape(words)}</text>'
