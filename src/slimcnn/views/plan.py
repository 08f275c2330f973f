"""Show the channels that a pruning plan removes, and the costs before and after."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from slimcnn.graph import ChannelGraph
from slimcnn.pruning import Plan
from slimcnn.reporting.sections import Section, Text
from slimcnn.views.view import View, costs, table

SHOWN = 12
"""Maximum number of removed channels listed per group; the plan's file lists all."""


def plan(graph: ChannelGraph, chosen: Plan) -> View:
    """Show the channels that a plan keeps in every group, and the network's costs before and after.

    Data: `criterion`, `target`, `macs`, `params`, `bytes` and `peak_memory` (each `before` and `after`), `groups`
    (`group`, `channels`, `kept`) and `notes`.
    """
    counts = chosen.counts(graph)
    before, after = _costs(graph, 0 * counts), _costs(graph, counts)
    groups = [
        (group.name, group.channels, group.channels - int(n)) for group, n in zip(graph.groups, counts, strict=True)
    ]
    rows = [(*one, _listed(chosen.removed.get(one[0], ()))) for one in groups]
    notes = tuple(Text(text=note, tone="note") for note in chosen.notes)
    listed = table({"group": "name", "channels": "exact", "kept": "exact", "removed": "text"}, rows)
    return View(
        title="Plan",
        headline=f"{chosen.criterion}, {chosen.target}: "
        f"{after['macs'] / max(before['macs'], 1):.1%} of the MACs remain",
        sections=(
            Section(title="Channels", blocks=(listed,)),
            Section(title="Costs", blocks=(costs(before, after), *notes)),
        ),
        data={
            "criterion": chosen.criterion,
            "target": chosen.target,
            **{name: {"before": before[name], "after": after[name]} for name in before},
            "groups": [dict(zip(("group", "channels", "kept"), one, strict=True)) for one in groups],
            "notes": list(chosen.notes),
        },
    )


def _costs(graph: ChannelGraph, removed: npt.NDArray[np.int64]) -> dict[str, int]:
    return {
        "macs": graph.macs(removed),
        "params": graph.params(removed),
        "bytes": graph.bytes(removed),
        "peak_memory": graph.peak_memory(removed),
    }


def _listed(channels: tuple[int, ...]) -> str:
    return ", ".join(map(str, channels[:SHOWN])) + (" …" if len(channels) > SHOWN else "")
