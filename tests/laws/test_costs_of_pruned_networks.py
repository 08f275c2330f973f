"""The law of costs: what the graph predicts of any removal is what the pruned network has."""

from __future__ import annotations

import pytest
import torch
from law_networks import NETWORKS, REGISTERED

import slimcnn
from at_hand import some_channels
from slimcnn.graph import ChannelGraph, trace
from slimcnn.measuring import measure
from slimcnn.pruning import Plan, prune

ALL = {**NETWORKS, **REGISTERED}


def predicted(graph: ChannelGraph, plan: Plan) -> tuple[int, int, int]:
    counts = plan.counts(graph)
    return graph.bytes(counts), graph.peak_memory(counts), graph.peak_memory(counts, float_bytes=1)


def measured(model: torch.nn.Module, graph: ChannelGraph, plan: Plan) -> tuple[int, int, int]:
    found = measure(prune(model, graph, plan, verify=False), graph.example)
    return found.bytes, found.peak_memory, found.peak_memory_int8


@pytest.mark.parametrize("name", ALL)
def test_bytes_and_running_memory_of_any_removal_are_predicted_exactly(name: str) -> None:
    model = ALL[name]()
    graph = trace(model, torch.zeros(1, 3, 32, 32) if name in REGISTERED else torch.zeros(2, 3, 8, 8))
    for plan in (Plan(graph.fingerprint, {}), *(some_channels(graph, seed) for seed in range(3))):
        assert predicted(graph, plan) == measured(model, graph, plan)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "shufflenet_v2", "address_net20", "torchvision:resnet18"])
def test_running_memory_is_predicted_exactly_where_whole_branches_go(name: str) -> None:
    model = slimcnn.resolve(name) if ":" in name else slimcnn.build(name)
    graph = trace(model, torch.zeros(1, 3, 32, 32))
    branches = [i for i, group in enumerate(graph.groups) if group.branch]
    for some in (branches, branches[::2]):
        whole = {
            graph.groups[i].name: tuple(range(graph.groups[i].channels)) for b in some for i in graph.companions[b]
        }
        plan = Plan(graph.fingerprint, whole)
        assert predicted(graph, plan) == measured(model, graph, plan)


def test_a_buffer_that_no_weights_file_holds_has_no_bytes() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(8, 4, 1))
    model.register_buffer("grid", torch.zeros(100), persistent=False)
    graph = trace(model, torch.zeros(1, 3, 4, 4))
    assert graph.bytes() == measure(model, graph.example).bytes == 4 * (3 * 8 + 8 + 8 * 4 + 4)
