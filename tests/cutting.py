"""Cut at random, as a graph allows."""

from __future__ import annotations

import numpy as np
import torch

from slimcnn.graph import ChannelGraph
from slimcnn.pruning import Plan


def some_channels(graph: ChannelGraph, seed: int) -> Plan:
    """Remove a random number of random channels of every group, as many of each part; with seed 0 all that may go."""
    generator = torch.Generator().manual_seed(seed)
    removed = {}
    for bundle in graph.bundles:
        groups = [graph.groups[i] for i in bundle]
        most = min((group.channels - group.least) // len(group.parts) for group in groups)
        n = int(torch.randint(1, most + 1, (), generator=generator)) if seed else most
        for group in groups:
            orders = [torch.randperm(len(part), generator=generator)[:n] for part in group.parts]
            gone = [part[order.numpy()] for part, order in zip(group.parts, orders, strict=True)]
            removed[group.name] = tuple(np.concatenate(gone).tolist())
    return Plan(graph.fingerprint, removed)
