"""Convert removed channels to kept positions of tensors and to size attributes of modules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from slimcnn.graph.channels import ChannelGraph, Mask, Positions
from slimcnn.graph.shrinking import Kept

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


def composed(first: Kept, second: Kept) -> dict[str, dict[int, Tensor]] | None:
    """Return the positions left after two cuts, as positions before both; None if whole blocks of an axis went.

    >>> found = composed({"a": {0: torch.tensor([1, 3, 5])}}, {"a": {0: torch.tensor([0, 2])}})
    >>> found["a"][0]
    tensor([1, 5])
    """
    found: dict[str, dict[int, Tensor]] = {name: dict(axes) for name, axes in first.items()}
    for name, axes in second.items():
        for axis, left in axes.items():
            before = first.get(name, {}).get(axis)
            if before is not None:
                if before.shape[:-1] != left.shape[:-1]:
                    return None
                left = before.gather(-1, left)
            found.setdefault(name, {})[axis] = left
    return found


def kept_counts(graph: ChannelGraph, removed: Removed) -> dict[tuple[str, str, int | None], int]:
    """Return the new value of every size attribute: its number of kept channels."""
    if not graph.sizes:
        return {}
    gone = {(g, int(c)) for g, channels in removed.items() for c in channels}
    return {size.key: sum((int(g), int(c)) not in gone for g, c in size.channels) for size in graph.sizes}
