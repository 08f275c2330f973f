"""The picture of a channel graph as data: layers in boxes, their channels by group."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from slimcnn.graph import Axis, ChannelGraph, Locked
from slimcnn.graph.channels import layer_of
from slimcnn.reporting.figures.channel_graph import ChannelBox, ChannelLayer, ChannelPicture, ChannelRun

ALIKE, MOST = 0.5, 0.75
"""Share of layers that two modules have in common if one repeats the other; share of a module's layers in such."""

PASSED_ON = "passes on locked channels"

Path = tuple[str, ...]
"""A layer's name, split at the dots."""


def picture_of(graph: ChannelGraph) -> ChannelPicture:
    """Return the picture of a traced network.

    >>> import torch
    >>> from slimcnn.graph import trace
    >>> from slimcnn.models import build
    >>> found = picture_of(trace(build("resnet8"), torch.zeros(1, 1, 8, 8)))
    >>> [box.title for box in found.boxes]
    ['conv1', 'layer1.0', 'layer2.0', 'layer3.0', 'linear']
    """
    macs: dict[str, int] = defaultdict(int)
    for contraction in graph.contractions:
        macs[contraction.module] += contraction.macs
    locked: dict[str, list[Locked]] = defaultdict(list)
    for lock in graph.locked:
        locked[lock.layer].append(lock)
    free, widths = _free_runs(graph), _widths(graph)
    names = list(dict.fromkeys([*macs, *locked]))

    def layer(name: str, label: str) -> ChannelLayer:
        runs = free.get(name, [])
        runs = [*runs, *_locked_runs(locked.get(name, []), runs, widths.get(name, 0))]
        return ChannelLayer(name=name, label=label, macs=macs.get(name, 0), runs=tuple(runs))

    boxes = (
        ChannelBox(title=title, layers=tuple(layer(name, label) for name, label in labels.items()))
        for title, labels in boxes_of(names)
    )
    return ChannelPicture(boxes=tuple(boxes), groups=tuple(group.name for group in graph.groups))


def _free_runs(graph: ChannelGraph) -> dict[str, list[ChannelRun]]:
    """Return the channels of every layer that belong to groups, in the order of their first positions."""
    found: dict[str, dict[int, Axis]] = defaultdict(dict)
    for index, group in enumerate(graph.groups):
        reads = {(axis.parameter, axis.axis) for axis in group.reads}
        for axis in (*group.filters, *group.axes):
            if (axis.parameter, axis.axis) not in reads and axis.positions.size:
                found[layer_of(axis.parameter)].setdefault(index, axis)
    return {
        layer: [
            ChannelRun(channels=axis.positions.size, group=index)
            for index, axis in sorted(axes.items(), key=lambda one: int(one[1].positions.min()))
        ]
        for layer, axes in found.items()
    }


def _locked_runs(locked: Sequence[Locked], free: Sequence[ChannelRun], width: int) -> list[ChannelRun]:
    """Return the locked channels with the reasons; depthwise layers pass on locked channels and have no reason."""
    runs = [ChannelRun(channels=one.channels, group=None, reason=one.reason, where=one.where) for one in locked]
    rest = width - sum(run.channels for run in (*free, *runs))
    return [*runs, ChannelRun(channels=rest, group=None, reason=PASSED_ON)] if rest > 0 else runs


def _widths(graph: ChannelGraph) -> dict[str, int]:
    """Return the number of output channels of every layer, as far as the graph knows it."""
    weights = {f"{contraction.module}.weight".lstrip(".") for contraction in graph.contractions}
    found = {layer_of(name): shares[0].size for name, shares in graph.parameters.items() if name in weights}
    for group in graph.groups:
        reads = {(axis.parameter, axis.axis) for axis in group.reads}
        made = (axis for axis in (*group.axes, *group.filters) if (axis.parameter, axis.axis) not in reads)
        found |= {layer_of(axis.parameter): axis.size for axis in made}
    return found | {lock.layer: lock.of for lock in graph.locked}


def boxes_of(names: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    """Put layers into boxes at the level where modules repeat; return titles, layers and their names in the box.

    Layers that follow each other outside of such a module share a box.

    >>> boxes_of(["stem", "body.0.a", "body.0.b", "body.1.a", "body.1.b", "left", "right"])
    [('stem', {'stem': 'stem'}), ('body.0', {'body.0.a': 'a', 'body.0.b': 'b'}), \
('body.1', {'body.1.a': 'a', 'body.1.b': 'b'}), ('left to right', {'left': 'left', 'right': 'right'})]
    """
    paths = {name: tuple(name.split(".")) for name in names}
    homes = _homes(list(paths.values()), 0)
    found: list[tuple[Path, bool, dict[str, str]]] = []
    places: dict[Path, dict[str, str]] = {}
    for name, path in paths.items():
        home, alone = homes[path]
        if alone and found and found[-1][:2] == (home, True):
            box = found[-1][2]
        elif not alone and home in places:
            box = places[home]
        else:
            box = {}
            found.append((home, alone, box))
            if not alone:
                places[home] = box
        box[name] = ".".join(path[len(home) :])
    return [(_title(home, alone, list(box)), box) for home, alone, box in found]


def _title(home: Path, alone: bool, names: Sequence[str]) -> str:
    if not alone and home:
        return ".".join(home)
    return (names[0] or "network") if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _homes(paths: Sequence[Path], depth: int) -> dict[Path, tuple[Path, bool]]:
    """Return the module of every layer's box, and whether the layer stands alone in it.

    A module with a single numbered part, such as a stage of one block, has its box at that part.
    """
    children: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        children[path[depth] if len(path) > depth else ""].append(path)
    only = next(iter(children)) if len(children) == 1 else ""
    if depth and not only.isdigit() and not _repeat(children, depth):
        return dict.fromkeys(paths, (paths[0][:depth], False))
    found: dict[Path, tuple[Path, bool]] = {}
    for layers in children.values():
        found |= _homes(layers, depth + 1) if len(layers) > 1 else {layers[0]: (layers[0][:depth], True)}
    return found


def _repeat(children: Mapping[str, Sequence[Path]], depth: int) -> bool:
    """Whether most layers are in modules that repeat each other: similar names, similar layers."""
    alike: dict[str, list[str]] = defaultdict(list)
    inside = {child: {path[depth + 1 :] for path in paths} for child, paths in children.items() if len(paths) > 1}
    for child in inside:
        alike[re.sub(r"\d+$", "", child)].append(child)
    repeated = {
        child
        for siblings in alike.values()
        for one, other in pairwise(siblings)
        if len(inside[one] & inside[other]) >= ALIKE * len(inside[one] | inside[other])
        for child in (one, other)
    }
    return sum(len(children[child]) for child in repeated) >= MOST * sum(map(len, children.values()))
