"""Every network of ours, pruned at half, answers in ONNX Runtime and OpenVINO as in PyTorch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.fx import Graph

import slimcnn
from at_hand import randomize
from laws.test_every_network import SMALL
from slimcnn.exporting import prepare, write_model
from slimcnn.exporting.parity import compare
from slimcnn.exporting.runtimes import open_in
from slimcnn.models import networks, preprocessing


def foldable(graph: Graph) -> list[str]:
    """Batch norms that alone read a convolution whose weight is a parameter."""
    norms = [node for node in graph.nodes if node.target is torch.ops.aten.batch_norm.default]
    behind = [node for node in norms if "conv" in str(node.args[0].target) and len(node.args[0].users) == 1]
    return [node.name for node in behind if node.args[0].args[1].op == "placeholder"]


OFTEN = {"resnet8"}
"""tests/models/test_compact.py exports some others."""


@pytest.mark.parametrize(
    "name", [one.name if one.name in OFTEN else pytest.param(one.name, marks=pytest.mark.slow) for one in networks]
)
def test_a_pruned_network_answers_in_every_runtime_as_in_pytorch(name: str, tmp_path: Path) -> None:
    net = slimcnn.build(name, **SMALL.get(name, {}))
    randomize(net)
    shape = preprocessing(net).input
    assert shape is not None
    graph = slimcnn.trace(net, torch.zeros(1, *shape))
    plan = slimcnn.allocate(graph, slimcnn.score(net, graph, "l2"), slimcnn.Target(pruning_ratio=0.5))
    small = slimcnn.prune(net, graph, plan, verify=False).eval()
    x = torch.randn(3, *shape)
    with torch.no_grad():
        expected = small(x).numpy()
    assert not foldable(prepare(small, x[:1]).program.graph)
    for runtime, to in (("onnxruntime", "onnx"), ("openvino", "openvino")):
        path = write_model(small, x[:1], to, tmp_path / "model")[0]
        found = open_in(runtime, path, threads=1)(x).numpy()
        parity = compare([expected], [found])
        assert parity.status == "equal", f"{runtime}: {parity}"
