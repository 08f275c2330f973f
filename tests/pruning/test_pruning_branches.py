"""With min_channels=0 residual branches may lose all their channels, exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from networks_to_prune import plain
from torch import nn

import slimcnn
from slimcnn.errors import PlanError, TargetUnreachable
from slimcnn.graph import ChannelGraph, trace
from slimcnn.layers.emptied import EMPTY, make_empty
from slimcnn.pruning import Plan, Target, allocate, mask, prune, score, verify


def randomized(name: str, **options: float) -> nn.Module:
    torch.manual_seed(0)
    model = slimcnn.build(name, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def graph_of(model: nn.Module, size: int = 32) -> ChannelGraph:
    return trace(model, torch.zeros(1, 3, size, size))


def test_the_inside_of_residual_branches_may_go_and_streams_may_not() -> None:
    graph = graph_of(slimcnn.build("resnet20"))
    assert [group.name for group in graph.groups if group.branch] == [g.name for g in graph.groups if not g.residual]
    assert not any(group.branch for group in trace(plain(8, 8), torch.zeros(1, 3, 4, 4)).groups)


@pytest.mark.parametrize("name", ["resnet20", "resnet164"])
def test_a_branch_without_channels_adds_its_constant_and_costs_nothing(name: str, tmp_path: Path) -> None:
    model = randomized(name, **({"width": 0.25} if name == "resnet164" else {}))
    graph = graph_of(model)
    scores = score(model, graph, "l2")
    gone = Target(per_layer={"layer2.1.*": 1.0, "layer3.0.*": 1.0}, min_channels=0)
    plan = allocate(graph, scores, gone)
    small = prune(model, graph, plan)
    verdict = verify(mask(model, graph, plan), small, graph, plan)
    assert verdict.equal
    counts = plan.counts(graph)
    assert graph.macs(counts) == slimcnn.measure(small, torch.zeros(1, 3, 32, 32)).macs < graph.macs()
    assert graph.params(counts) == sum(p.numel() for p in small.parameters())
    assert type(small.layer2[1].conv2) is EMPTY[nn.Conv2d]
    assert type(model.layer2[1].conv2) is nn.Conv2d
    x = torch.randn(2, 3, 32, 32)
    optimizer = torch.optim.SGD(small.train().parameters(), lr=0.01, momentum=0.9)
    small(x).sum().backward()
    optimizer.step()
    assert slimcnn.recalibrate(small, [torch.randn(4, 3, 32, 32)]) > 0
    slimcnn.save(small, tmp_path / "net.safetensors")
    loaded = slimcnn.load(tmp_path / "net.safetensors")
    assert torch.equal(loaded(x), small.eval()(x))
    again = graph_of(small)
    half = allocate(again, score(small, again, "l2"), Target(pruning_ratio=0.5))
    assert prune(small, again, half)(x).shape == (2, 10)


def test_what_only_a_vanished_layer_reads_goes_along() -> None:
    model = randomized("resnet164", width=0.25)
    graph = graph_of(model)
    plan = allocate(graph, score(model, graph, "l2"), Target(per_layer={"layer1.2.conv2": 1.0}, min_channels=0))
    assert len(plan.removed["layer1.2.conv1"]) == graph["layer1.2.conv1"].channels


def test_global_ranking_may_remove_branches_where_that_is_allowed() -> None:
    model = randomized("resnet20")
    with torch.no_grad():
        for part in (model.layer1[1].conv1, model.layer1[1].bn1):
            part.weight.mul_(1e-3)
    graph = graph_of(model)
    scores = score(model, graph, "bn_scale")
    spared = allocate(graph, scores, Target(macs=0.6, scope="global", residual="cut"))
    assert len(spared.removed["layer1.1.conv1"]) == graph["layer1.1.conv1"].channels - 1
    plan = allocate(graph, scores, Target(macs=0.6, scope="global", residual="cut", min_channels=0))
    assert len(plan.removed["layer1.1.conv1"]) == graph["layer1.1.conv1"].channels
    assert prune(model, graph, plan)(torch.randn(1, 3, 32, 32)).shape == (1, 10)


def test_lower_targets_come_into_reach() -> None:
    model = randomized("resnet20")
    graph = graph_of(model)
    scores = score(model, graph, "l2")
    with pytest.raises(TargetUnreachable):
        allocate(graph, scores, Target(macs=0.02, residual="inner"))
    plan = allocate(graph, scores, Target(macs=0.02, residual="inner", min_channels=0))
    assert graph.macs(plan.counts(graph)) <= 0.02 * graph.macs()
    assert prune(model, graph, plan)


def test_a_plan_may_not_empty_what_is_no_branch() -> None:
    model = plain(8, 8)
    graph = trace(model, torch.zeros(1, 3, 4, 4))
    with pytest.raises(PlanError, match="the plan leaves 0 of 8 channels"):
        prune(model, graph, Plan(graph.fingerprint, {"0": tuple(range(8))}))


@pytest.mark.parametrize("options", [
    {"stride": 2, "padding": 1}, {"padding": "same", "dilation": 2}, {"padding": "valid", "bias": False}, {},
])  # fmt: skip
@pytest.mark.parametrize("kind", [1, 2, 3])
def test_an_empty_convolution_is_one_whose_weights_are_zero(kind: int, options: dict[str, object]) -> None:
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[kind - 1](4, 6, 3, **options)
    x = torch.randn(2, 4, *[9] * kind)
    with torch.no_grad():
        conv.weight.zero_()
    expected = conv(x)
    conv.weight, conv.in_channels = nn.Parameter(conv.weight.detach()[:, :0]), 0
    assert torch.equal(make_empty(conv)(x[:, :0]), expected)


@pytest.mark.parametrize("name", ["as_net", "shift_resnet20", "shiftnet_b", "fe_net"])
def test_branches_of_shifts_may_go_too(name: str, tmp_path: Path) -> None:
    small_images = {"image_size": 32, "num_classes": 10} if name in ("shiftnet_b", "fe_net") else {}
    model = randomized(name, width=0.5, **small_images).eval()
    graph = graph_of(model)
    names = [group.name for group in graph.groups if group.branch][:2]
    assert len(names) == 2
    plan = allocate(graph, score(model, graph, "l2"), Target(per_layer=dict.fromkeys(names, 1.0), min_channels=0))
    small = prune(model, graph, plan)
    assert verify(mask(model, graph, plan), small, graph, plan).equal
    small.train()(torch.randn(2, 3, 32, 32)).sum().backward()
    slimcnn.save(small, tmp_path / "small.safetensors")
    again = slimcnn.load(tmp_path / "small.safetensors").eval()
    assert torch.equal(again(torch.ones(1, 3, 32, 32)), small.eval()(torch.ones(1, 3, 32, 32)))
