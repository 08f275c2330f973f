"""The trial cut: take channels out of a copy, run it on ids, and see whether every channel still arrives.

Sizes that are written into the code (`x.view(n, 64, 49)`, `x[:, :32]`, a split into fixed widths) do not follow a
cut.  The dispatcher cannot tell them from sizes that are computed, so we look what happens.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimcnn.graph.atoms import Atoms
from slimcnn.graph.building import GraphBuilder
from slimcnn.graph.channels import ChannelGraph, Positions
from slimcnn.graph.running import Broken, watch
from slimcnn.graph.shrinking import shrink
from slimcnn.graph.tracer import LockRecord

Removed = Mapping[int, Positions]
"""Group (by index) → the channels that go."""

PATIENCE = 6
"""Trials that lock only what failed; after that, whatever runs through the same line of code."""


def trial_cut(
    model: nn.Module, example: Any, graph: ChannelGraph, atoms: Atoms, builder: GraphBuilder, seed: int
) -> list[LockRecord]:
    """Cut half of every group from a copy and list what has to be locked; empty if every channel arrived."""
    random = np.random.default_rng(seed)
    removed = {
        i: np.r_[0, 1 + random.permutation(group.channels - 1)[: max(group.channels // 2 - 1, 0)]]
        for i, group in enumerate(graph.groups)
        if group.channels > 2
    }
    if not removed:
        return []
    kept = kept_positions(graph, removed)
    cut = copy.deepcopy(model)
    shrink(cut, kept, kept_pads(graph, removed))
    try:
        ledger, _ = watch(cut, example, atoms.labels(cut, kept), len(builder.component))
    except Broken as broken:
        return _culprits(broken, graph, builder, patience=seed < PATIENCE)
    wrong = []
    for a, b, site in ledger.equal:
        known = (a < len(builder.component)) & (b < len(builder.component))
        a, b = a[known], b[known]
        astray = torch.from_numpy(builder.component[a.numpy()] != builder.component[b.numpy()])
        if bool(astray.any()):
            ids = torch.cat([a[astray], b[astray]])
            wrong.append(LockRecord(ids, "a size in the code does not follow a cut: channels arrive displaced", site))
    for record in ledger.locks:
        ids = record.ids[record.ids < len(builder.component)]
        wrong.append(LockRecord(ids, record.reason, record.site))
    return _whole_groups(wrong, graph, builder)


def _culprits(broken: Broken, graph: ChannelGraph, builder: GraphBuilder, patience: bool) -> list[LockRecord]:
    """Lock what flowed into the operation that failed; if Python failed between operations, what its function moved.

    When trial after trial fails (`patience` is over), lock what passes the same line of code in any module.
    """
    ledger, site = broken.ledger, broken.ledger.current
    reason = f"a size in the code does not follow a cut: {broken.reason}"
    here = ledger.lines[site.code] if site else []
    everywhere = builder.ledger.lines.get(site.code, []) if site else []
    function = broken.function
    moved = [ids for place, ids in builder.ledger.moves if (place.file, place.function) == function]
    suspects = [here if patience else everywhere, ledger.current_weights] if not ledger.finished else []
    for ids in (*suspects, moved, everywhere, [torch.arange(len(builder.component))]):
        known = [i[i < len(builder.component)] for i in ids]
        found = _whole_groups([LockRecord(i, reason, site) for i in known], graph, builder)
        if found:
            return found
    return []


def _whole_groups(records: list[LockRecord], graph: ChannelGraph, builder: GraphBuilder) -> list[LockRecord]:
    """Widen records to all channels of the free groups that they touch; drop those that touch none."""
    widened = []
    for record in records:
        components = np.unique(builder.component[record.ids.numpy()])
        for index in np.unique(builder.owner[components]):
            if index >= 0:
                members = np.flatnonzero(builder.owner[builder.component] == index)
                widened.append(LockRecord(torch.from_numpy(members), record.reason, record.site))
    return widened


def kept_positions(graph: ChannelGraph, removed: Removed) -> dict[str, dict[int, Tensor]]:
    """Turn removed channels into the positions that stay, for every axis that changes."""
    stays: dict[tuple[str, int], Positions] = {}
    for index, channels in removed.items():
        for axis in graph.groups[index].axes if len(channels) else ():
            key = (axis.parameter, axis.axis)
            stays.setdefault(key, np.ones(axis.size, dtype=np.bool_))[axis.positions[channels]] = False
    kept: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for (name, axis_index), mask in stays.items():
        kept[name][axis_index] = torch.from_numpy(np.flatnonzero(mask))
    return kept


def kept_pads(graph: ChannelGraph, removed: Removed) -> dict[str, tuple[int, int]]:
    """Count the zeros that every ChannelPad still adds in front and behind."""
    gone = {(g, int(c)) for g, channels in removed.items() for c in channels}

    def left(pairs: Positions) -> int:
        return sum((int(g), int(c)) not in gone for g, c in pairs)

    return {name: (left(front), left(back)) for name, (front, back) in graph.pads.items()}
