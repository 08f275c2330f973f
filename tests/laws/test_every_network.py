"""prune == mask for every network of ours, statistics and affine values randomised first; costs are as predicted."""

from __future__ import annotations

import pytest
import torch

import slimcnn
from at_hand import randomise
from slimcnn.models import networks
from slimcnn.pruning.verify import verify

SMALL = {"resnet110": {"width": 0.25}, "resnet164": {"width": 0.25}, "vgg19": {"width": 0.25}, "vgg16": {"width": 0.25}}


@pytest.mark.parametrize("name", [entry.name for entry in networks])
def test_the_pruned_network_is_the_masked_network(name: str) -> None:
    net = slimcnn.build(name, **SMALL.get(name, {}))
    randomise(net)
    shape = networks[name].facts["input"]
    before = {key: value.clone() for key, value in net.state_dict().items()}
    graph = slimcnn.trace(net, torch.zeros(1, *shape))
    plan = slimcnn.allocate(graph, slimcnn.score(net, graph, "fpdf"), slimcnn.Target(ratio=0.4))
    small = slimcnn.prune(net, graph, plan, verify=False)
    verdict = verify(slimcnn.mask(net, graph, plan), small, graph, plan)
    assert verdict.equal, str(verdict)
    assert verdict.error < 1e-9
    counts = plan.counts(graph)
    size = slimcnn.measure(small, graph.example)
    assert (size.macs, size.params) == (graph.macs(counts), graph.params(counts))
    assert counts.sum() > 0
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
