"""Networks in a line of code, and what may be asked of their graphs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from at_hand import randomize, some_channels
from slimcnn.graph import ChannelGraph, trace
from slimcnn.pruning import Plan, mask, prune, verify


def image(channels: int = 3, size: int = 8) -> Tensor:
    return torch.zeros(1, channels, size, size)


def owned(graph: ChannelGraph, group: str) -> dict[str, list[list[int]]]:
    """What a group owns: 'parameter axis' → for each channel its positions."""
    return {f"{axis.parameter} {axis.axis}": axis.positions.tolist() for axis in graph[group].axes}


def sizes(graph: ChannelGraph) -> dict[str, int]:
    return {group.name: group.channels for group in graph.groups}


def reasons(graph: ChannelGraph) -> dict[str, set[str]]:
    """Why layers are locked, the protected output left out."""
    found: dict[str, set[str]] = {}
    for lock in graph.locked:
        if lock.reason != "the network's output":
            found.setdefault(lock.layer, set()).add(lock.reason)
    return found


def half_of_everything(model: nn.Module, example: Any = None) -> Any:
    """Cut the first half of every part."""
    graph = trace(model, image() if example is None else example)
    removed = {g.name: tuple(c for part in g.parts for c in part[: len(part) // 2].tolist()) for g in graph.groups}
    assert removed
    return prune(model, graph, Plan(graph.fingerprint, removed))


def law_holds(model: nn.Module, graph: ChannelGraph, seeds: int = 4) -> int:
    """Cut different random numbers of channels of every group, check the law, and count the channels that went."""
    cut = 0
    for seed in range(seeds):
        plan = some_channels(graph, seed)
        small = prune(model, graph, plan, verify=False)
        verdict = verify(mask(model, graph, plan), small, graph, plan)
        assert verdict.equal, f"{plan.removed}: {verdict}"
        assert verdict.error < 1e-9
        assert sum(p.numel() for p in small.parameters()) == graph.params(plan.counts(graph))
        cut += int(plan.counts(graph).sum())
    return cut


def traced(model: nn.Module, example: Any = None) -> ChannelGraph:
    """Trace, and hold the law; networks of these tests have random normalization."""
    randomize(model)
    graph = trace(model, image() if example is None else example)
    assert law_holds(model, graph) > 0 or not graph.groups
    return graph
