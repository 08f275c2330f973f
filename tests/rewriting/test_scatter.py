"""Streams keep their width, layers that add into them lose channels of their own, exactly."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import slimcnn
from at_hand import Net, mostly_slow, randomize, some_channels
from slimcnn.errors import CheckpointError, ModelError, TargetError
from slimcnn.layers.placing import Gathering, Scattering, place, placing_of
from slimcnn.linear.layers import layers_of
from slimcnn.pruning import verify

Conv = nn.Conv2d
SMALL, LARGE = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 64, 64)


def convolutions_without_norm() -> nn.Module:
    """A stream into which bare convolutions add, one of them straight from the stem's convolution."""
    return Net(
        lambda n, x: n.head((y := n.stem(x)) + (z := n.a(y.sigmoid())) + n.b(F.relu(y + z))),
        stem=Conv(3, 8, 3), a=Conv(8, 8, 1), b=Conv(8, 8, 1), head=Conv(8, 5, 1),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "resnet20": (lambda: slimcnn.build("resnet20"), SMALL),
    "resnet20, projections": (lambda: slimcnn.build("resnet20", shortcut="B"), SMALL),
    "resnet164": (lambda: slimcnn.build("resnet164"), SMALL),
    "resnet18": (torchvision.models.resnet18, LARGE),
    "resnet50": (torchvision.models.resnet50, LARGE),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, LARGE),
    "no norms": (convolutions_without_norm, SMALL),
}
OFTEN = {"resnet20, projections", "mobilenet_v2", "no norms"}


def prepared(kind: str) -> tuple[nn.Module, nn.Module, slimcnn.ChannelGraph]:
    """A network with numbers that hide nothing, its rewritten copy, and the copy's graph."""
    make, example = NETWORKS[kind]
    torch.manual_seed(0)
    model = make().eval()
    randomize(model)
    rewritten = slimcnn.scatter(model, example)
    return model, rewritten, slimcnn.trace(rewritten, example)


@pytest.mark.parametrize("kind", mostly_slow(NETWORKS, OFTEN))
def test_the_rewritten_network_computes_the_same(kind: str) -> None:
    model, rewritten, graph = prepared(kind)
    x = torch.randn(2, *graph.example.shape[1:])
    assert torch.equal(rewritten(x), model(x))
    assert placing_of(rewritten)["scatter"]
    assert not placing_of(model)
    assert dict(model.named_parameters()).keys() == dict(rewritten.named_parameters()).keys()


@pytest.mark.parametrize("kind", mostly_slow(NETWORKS, OFTEN))
def test_pruned_is_masked_when_layers_that_add_lose_different_channels(kind: str) -> None:
    _, rewritten, graph = prepared(kind)
    assert not any(group.residual for group in graph.groups)
    for seed in range(3):
        plan = some_channels(graph, seed)
        small = slimcnn.prune(rewritten, graph, plan, verify=False)
        verdict = verify(slimcnn.mask(rewritten, graph, plan), small, graph, plan)
        assert verdict.equal, f"{verdict}; removed {plan.removed}"
        assert slimcnn.measure(small, graph.example).macs == graph.macs(plan.counts(graph))


@pytest.mark.parametrize("kind", mostly_slow(NETWORKS, OFTEN))
def test_every_layer_that_adds_into_a_stream_has_channels_of_its_own(kind: str) -> None:
    _, rewritten, graph = prepared(kind)
    for name in placing_of(rewritten)["scatter"]:
        owners = [group.name for group in graph.groups if any(a.parameter == f"{name}.places" for a in group.axes)]
        assert len(owners) == 1
        assert len(graph[owners[0]].filters) == 1


def cut(kind: str) -> nn.Module:
    _, rewritten, graph = prepared(kind)
    return slimcnn.prune(rewritten, graph, some_channels(graph, 3))


def test_the_stream_keeps_its_width_and_the_first_block_reads_what_the_stem_makes() -> None:
    small = cut("resnet20")
    assert isinstance(small.bn1, Scattering)
    assert isinstance(small.layer1[0].conv1, Gathering)
    assert small.layer1[0].conv1.in_channels == small.conv1.out_channels == len(small.bn1.places) < 16
    assert small.layer1[1].conv1.in_channels == 16
    assert small.bn1(torch.ones(1, len(small.bn1.places), 4, 4)).shape == (1, 16, 4, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "share"), [("resnet20", 64.54), ("resnet32", 63.70), ("resnet56", 63.16), ("resnet110", 62.83)]
)
def test_half_of_every_layer_saves_what_sfp_and_fpgm_count(name: str, share: float) -> None:
    """The published accounting: (1 - r) of a first convolution's MACs stay, (1 - r)^2 of a last one's."""
    model = slimcnn.scatter(slimcnn.build(name), SMALL)
    graph = slimcnn.trace(model, SMALL)
    plan = slimcnn.allocate(
        graph, slimcnn.score(model, graph, "l2"), slimcnn.Target(pruning_ratio=0.5, residual="scatter")
    )
    assert round(100 * (1 - graph.macs(plan.counts(graph)) / graph.macs()), 2) == share


def test_a_cut_network_is_saved_with_its_places_and_loads_anywhere(tmp_path: Path) -> None:
    small, x = cut("resnet20").eval(), torch.randn(2, 3, 32, 32)
    path = slimcnn.save(small, tmp_path / "small.safetensors")
    loaded = slimcnn.load(path)
    assert torch.equal(loaded(x), small(x))
    assert torch.equal(slimcnn.load(path, slimcnn.build("resnet20"))(x), small(x))
    assert placing_of(loaded) == placing_of(small)
    graph = slimcnn.trace(loaded, SMALL)
    again = slimcnn.prune(loaded, graph, some_channels(graph, 1))
    assert slimcnn.measure(again, SMALL).macs < slimcnn.measure(small, SMALL).macs


def test_a_network_that_was_cut_before_it_was_rewritten_is_saved_and_loads(tmp_path: Path) -> None:
    graph = slimcnn.trace(model := slimcnn.build("resnet20"), SMALL)
    target = slimcnn.Target(pruning_ratio=0.25, residual="cut")
    narrow = slimcnn.prune(model, graph, slimcnn.allocate(graph, slimcnn.score(model, graph, "l2"), target))
    rewritten = slimcnn.scatter(narrow, SMALL)
    graph = slimcnn.trace(rewritten, SMALL)
    small, x = slimcnn.prune(rewritten, graph, some_channels(graph, 1)).eval(), torch.randn(2, 3, 32, 32)
    assert set(placing_of(small)["scatter"].values()) == {12, 24, 48}
    loaded = slimcnn.load(slimcnn.save(small, tmp_path / "small.safetensors"))
    assert torch.equal(loaded(x), small(x))
    assert placing_of(loaded) == placing_of(small)


def test_what_was_rewritten_before_is_copied() -> None:
    small, x = cut("resnet20").eval(), torch.randn(2, 3, 32, 32)
    again = slimcnn.scatter(small, SMALL)
    assert again is not small
    assert torch.equal(again(x), small(x))
    assert placing_of(again) == placing_of(small)


def test_a_file_whose_layers_do_not_fit_is_refused(tmp_path: Path) -> None:
    path = slimcnn.save(cut("resnet20"), tmp_path / "small.safetensors")
    with pytest.raises(CheckpointError, match="is for another network"):
        slimcnn.load(path, torchvision.models.vgg11())


@pytest.mark.parametrize(
    ("placing", "said"),
    [
        ({"scatter": {"nothing": 4}}, "no layer 'nothing'"),
        ({"scatter": {"a": 10**15}}, "has 8 output channels: it cannot write to a stream of 1000"),
        ({"scatter": {"a": 0}}, "a stream of 0"),
        ({"scatter": {"a": 8}, "gather": {"b": "head"}}, "cannot gather from 'head': 'head' does not scatter"),
    ],
)
def test_layers_that_cannot_be_placed_are_refused(placing: dict[str, dict[str, object]], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        place(convolutions_without_norm(), placing)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_cut_network_can_be_copied_and_pickled(copied: Callable[[nn.Module], nn.Module]) -> None:
    small, x = cut("resnet20").eval(), torch.randn(1, 3, 32, 32)
    other = copied(small)
    assert torch.equal(other(x), small(x))
    assert other.layer1[0].conv1.source is other.bn1


def test_a_layer_that_gathers_and_scatters_can_be_copied() -> None:
    model = convolutions_without_norm()
    place(model, {"scatter": {"stem": 8, "a": 8}, "gather": {"a": "stem"}})
    other, x = pickle.loads(pickle.dumps(nn.Sequential(*[model.stem, model.a]))), torch.randn(1, 3, 8, 8)
    assert torch.equal(other(x), model.a(model.stem(x)))
    assert isinstance(other[1], Gathering)
    assert isinstance(other[1], Scattering)
    assert isinstance(other[1], Conv)


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_cut_network_exports_to_onnx_and_agrees_there(dynamo: bool, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    small, x = cut("resnet20").eval(), torch.randn(1, 3, 32, 32)
    path = tmp_path / "small.onnx"
    torch.onnx.export(small, (x,), str(path), dynamo=dynamo, input_names=["x"], opset_version=18)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"x": x.numpy()})
    assert np.allclose(made, small(x).detach().numpy(), atol=1e-4)


def test_a_cut_network_trains_and_only_what_is_left_changes() -> None:
    small = cut("resnet20").train()
    optimizer = torch.optim.SGD(small.parameters(), 0.1)
    before = small.bn1.weight.detach().clone()
    small(torch.randn(4, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    assert all(parameter.grad is not None for parameter in small.parameters())
    assert not torch.equal(before, small.bn1.weight)


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_layout_of_the_original_stay(training: bool) -> None:
    model = slimcnn.build("resnet20").to(memory_format=torch.channels_last).train(training)
    rewritten = slimcnn.scatter(model, SMALL)
    assert rewritten.training is training
    x = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    made = rewritten.layer1[0].bn2.eval()(rewritten.layer1[0].conv2(rewritten.conv1(x)))
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_least_squares_brings_a_cut_network_nearer() -> None:
    torch.manual_seed(0)
    _, rewritten, graph = prepared("resnet20")
    plan = slimcnn.allocate(
        graph, slimcnn.score(rewritten, graph, "l2"), slimcnn.Target(pruning_ratio=0.3, residual="scatter")
    )
    small, x = slimcnn.prune(rewritten, graph, plan), torch.randn(64, 3, 32, 32)
    found = slimcnn.least_squares(small, rewritten, graph, plan, [x])
    assert found.after < 0.8 * found.before


def test_least_squares_matches_the_sum_that_a_scattering_layer_adds_to() -> None:
    """A channel of the stem is gone; the first block can make all that the sum lacks there, and nothing else can."""
    torch.manual_seed(0)
    model = Net(
        lambda n, x: n.head(((y := n.stem(x)) + n.norm(n.branch(y.relu())) - 4).relu()),
        stem=Conv(3, 8, 1), branch=Conv(8, 8, 1), norm=nn.BatchNorm2d(8), head=Conv(8, 5, 1),
    ).eval()  # fmt: skip
    randomize(model)
    with torch.no_grad():
        model.stem.bias.fill_(4.0)  # nothing is lost in the first ReLU: the branch sees all of the stem
        model.stem.weight[7] = model.stem.weight[:3].sum(0)
    x = torch.randn(32, 3, 8, 8)
    rewritten = slimcnn.scatter(model, x[:1])
    graph = slimcnn.trace(rewritten, x[:1])
    plan = slimcnn.Plan(graph.fingerprint, {"stem": (7,)})
    small = slimcnn.prune(rewritten, graph, plan)
    assert not torch.allclose(small(x), model(x), atol=0.05)
    slimcnn.least_squares(small, rewritten, graph, plan, [x])
    assert torch.allclose(small(x), model(x), atol=0.01)


def test_what_scatters_adds() -> None:
    small = cut("resnet20").eval()
    layers = layers_of(small, SMALL)
    for name in placing_of(small)["scatter"]:
        layer = layers[f"{name.replace('bn', 'conv')}.weight"]
        assert layer.norm is not None
        assert layer.placed == (name != "bn1")  # behind the stem comes a ReLU
        assert (layer.added is not None) == layer.placed


def test_networks_without_streams_are_refused() -> None:
    with pytest.raises(ModelError, match="no layers to scatter"):
        slimcnn.scatter(nn.Sequential(Conv(3, 8, 3), nn.ReLU(), Conv(8, 5, 3)), SMALL)


def test_the_target_says_when_the_network_was_not_rewritten() -> None:
    model = slimcnn.build("resnet20")
    graph = slimcnn.trace(model, SMALL)
    with pytest.raises(TargetError, match=r"slimcnn\.scatter"):
        slimcnn.allocate(
            graph, slimcnn.score(model, graph, "l2"), slimcnn.Target(pruning_ratio=0.5, residual="scatter")
        )
