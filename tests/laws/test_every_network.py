"""prune == mask for every network of ours, statistics and affine values randomized first; costs are as predicted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import slimcnn
from at_hand import randomize
from slimcnn.models import networks, preprocessing
from slimcnn.pruning.verify import verify

SMALL: dict[str, dict[str, Any]] = {
    **{name: {"width": 0.25} for name in ("resnet110", "resnet164", "vgg19", "vgg16", "shift_resnet56")},
    **{name: {"width": 0.25, "num_classes": 10, "image_size": 32} for name in (
        "mobilenet_v1", "mobilenet_v2", "igcv3", "xception", "shiftnet_a", "shiftnet_b",
        "as_resnet_w32", "as_resnet_w50", "as_resnet_w68", "fe_net",
    )},
    "shift_resnet110": {"width": 0.25, "expansion": 2},
    "shufflenet_v1": {"width": 1.0, "num_classes": 10, "image_size": 32},
    "shufflenet_v2": {"width": 0.5, "num_classes": 10, "image_size": 32},
    "squeezenet1_0": {"num_classes": 10, "image_size": 32},
    "squeezenet1_1": {"num_classes": 10, "image_size": 32},
}  # fmt: skip
"""Arguments with which a network is quick to check; its structure is the same."""


@pytest.mark.parametrize("name", [entry.name for entry in networks])
def test_the_pruned_network_is_the_masked_network(name: str) -> None:
    net = slimcnn.build(name, **SMALL.get(name, {}))
    randomize(net)
    shape = preprocessing(net).input
    assert shape is not None
    before = {key: value.clone() for key, value in net.state_dict().items()}
    graph = slimcnn.trace(net, torch.zeros(1, *shape))
    plan = slimcnn.allocate(graph, slimcnn.score(net, graph, "fpdf"), slimcnn.Target(pruning_ratio=0.4))
    small = slimcnn.prune(net, graph, plan, verify=False)
    verdict = verify(slimcnn.mask(net, graph, plan), small, graph, plan)
    assert verdict.equal, str(verdict)
    assert verdict.error < 1e-9
    counts = plan.counts(graph)
    size = slimcnn.measure(small, graph.example)
    assert (size.macs, size.params) == (graph.macs(counts), graph.params(counts))
    assert counts.sum() > 0
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
