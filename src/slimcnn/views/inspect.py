"""Show the channel groups of a network, and its locked channels with the reasons."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from slimcnn.graph import ChannelGraph
from slimcnn.reporting.formatting import plural
from slimcnn.reporting.sections import Format, Section, Text
from slimcnn.views.channel_boxes import picture_of
from slimcnn.views.view import View, table


def inspect(graph: ChannelGraph) -> View:
    """Show the channel groups and the locked channels of a traced network; a page and a notebook show a picture too.

    Data: `macs` and `params` of the network (one input), `groups` and `locked`.

    >>> import torch
    >>> from slimcnn.graph import trace
    >>> from slimcnn.models import build
    >>> inspect(trace(build("resnet8"), torch.zeros(1, 1, 8, 8)))
    View('Channels': 176 channels in 6 groups can be removed, 10 locked)
    """
    groups = [
        {
            "name": group.name, "channels": group.channels, "parts": len(group.parts), "residual": group.residual,
            "branch": group.branch, "inexact": group.inexact, "with": _companions(graph, index),
            "layers": list(group.layers),
        }
        for index, group in enumerate(graph.groups)
    ]  # fmt: skip
    free = sum(group.channels for group in graph.groups)
    locked = sum(lock.channels for lock in graph.locked)
    return View(
        title="Channels",
        headline=f"{plural(free, 'channel')} in {plural(len(groups), 'group')} can be removed, {locked:,} locked",
        sections=(_picture(graph), _removable(graph), _locked(graph), *_unproven(graph)),
        data={
            "macs": graph.macs(), "params": graph.params(), "groups": groups,
            "locked": [asdict(lock) for lock in graph.locked], "unproven": list(graph.unproven),
        },
    )  # fmt: skip


def _picture(graph: ChannelGraph) -> Section:
    return Section(title="Channel graph", blocks=(picture_of(graph).block(),))


def _unproven(graph: ChannelGraph) -> tuple[Section, ...]:
    blocks = tuple(Text(text=f"Not proven: {one}.", tone="note") for one in graph.unproven)
    return (Section(title="Limits of the trace", blocks=blocks),) if blocks else ()


def _companions(graph: ChannelGraph, index: int) -> list[str]:
    """Return the names of the groups that must keep as many channels as this one."""
    return [graph.groups[i].name for i in graph.companions[index] if i != index]


def _removable(graph: ChannelGraph) -> Section:
    rows: list[tuple[Any, ...]] = []
    for index, group in enumerate(graph.groups):
        notes = ["between residual blocks"] if group.residual else []
        notes += [f"same number from each of {len(group.parts)} parts"] if len(group.parts) > 1 else []
        companions = _companions(graph, index)
        notes += [f"same number as in {', '.join(companions)}"] if companions else []
        notes += ["inexact: normalized together"] if group.inexact else []
        rows.append((group.name, group.channels, ", ".join(group.layers), "; ".join(notes)))
    columns: dict[str, Format] = {"group": "name", "channels": "exact", "layers affected": "name"}
    if any(note for *_, note in rows):
        columns["note"] = "text"
    shown = table(columns, [row[: len(columns)] for row in rows])
    return Section(title="Channels that can be removed", blocks=(shown,))


def _locked(graph: ChannelGraph) -> Section:
    rows = [(lock.layer, lock.channels, lock.of, lock.reason, lock.where) for lock in graph.locked]
    columns = table({"layer": "name", "locked": "exact", "of": "exact", "reason": "text", "where": "name"}, rows)
    return Section(title="Locked channels", blocks=(columns,))
