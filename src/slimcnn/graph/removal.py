"""Convert removed channels to kept positions of tensors and to size attributes of modules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from slimcnn.graph.channels import ChannelGraph, Mask, Positions

Removed = Mapping[int, Positions]
"""Group (by index) → the channels to remove."""


def kept_positions(graph: ChannelGraph, removed: Removed) -> dict[str, dict[int, Tensor]]:
    """Return the kept positions of every axis that changes."""
    masks: dict[tuple[str, int, int], Mask] = {}
    for index, channels in removed.items():
        for axis in graph.groups[index].axes if len(channels) else ():
            key = (axis.parameter, axis.axis, axis.blocks)
            masks.setdefault(key, np.ones(axis.size, dtype=np.bool_))[axis.positions[channels]] = False
    kept: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for (name, axis_index, blocks), mask in masks.items():
        left = torch.from_numpy(np.flatnonzero(mask))
        kept[name][axis_index] = left if blocks == 1 else left.view(blocks, len(left) // blocks) % (len(mask) // blocks)
    return kept


def kept_counts(graph: ChannelGraph, removed: Removed) -> dict[tuple[str, str, int | None], int]:
    """Return the new value of every size attribute: its number of kept channels."""
    if not graph.sizes:
        return {}
    gone = {(g, int(c)) for g, channels in removed.items() for c in channels}
    return {size.key: sum((int(g), int(c)) not in gone for g, c in size.channels) for size in graph.sizes}
