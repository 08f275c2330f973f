"""Computed weights become values: the network computes the same, and its channels are free."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from timm.layers.std_conv import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn

import slimcnn
from at_hand import some_channels
from slimcnn.errors import CheckpointError, ModelError
from slimcnn.layers.materializing import materialized_of
from slimcnn.pruning import verify

Layer = Callable[[int, int], nn.Module]
EXAMPLE = torch.zeros(1, 3, 16, 16)


class Doubled(nn.Conv2d):
    """A weight that is not standardized, but computed."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, 2 * self.weight, self.bias)


class Centered(nn.Module):
    """A parametrization by user code."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight - weight.mean((1, 2, 3), keepdim=True)


def centered(layer: nn.Module) -> nn.Module:
    nn.utils.parametrize.register_parametrization(layer, "weight", Centered())
    return layer


norms = nn.utils.parametrizations
LAYERS: dict[str, Layer] = {
    "standardized": lambda i, o: StdConv2d(i, o, 3),
    "standardized, SAME": lambda i, o: StdConv2dSame(i, o, 3, stride=2),
    "scaled": lambda i, o: ScaledStdConv2d(i, o, 3, padding=0),
    "scaled, SAME": lambda i, o: ScaledStdConv2dSame(i, o, 3, stride=2),
    "user's subclass": lambda i, o: Doubled(i, o, 3),
    "old weight norm": lambda i, o: nn.utils.weight_norm(nn.Conv2d(i, o, 3)),
    "old spectral norm": lambda i, o: nn.utils.spectral_norm(nn.Conv2d(i, o, 3)),
    "weight norm": lambda i, o: norms.weight_norm(nn.Conv2d(i, o, 3)),
    "spectral norm": lambda i, o: norms.spectral_norm(nn.Conv2d(i, o, 3)),
    "orthogonal": lambda i, o: norms.orthogonal(nn.Conv2d(i, o, 3)),
    "user's parametrization": lambda i, o: centered(nn.Conv2d(i, o, 3)),
}
every_layer = pytest.mark.parametrize("kind", LAYERS)
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*")


def network(kind: str) -> nn.Sequential:
    make = LAYERS[kind]
    net = nn.Sequential(make(3, 8), nn.ReLU(), make(8, 6), nn.ReLU(), nn.Conv2d(6, 5, 1)).eval()
    for name, parameter in net.named_parameters():
        if name.endswith(("gain", "weight_g", "original0")):
            parameter.data.mul_(torch.rand_like(parameter) + 0.5)
    return net


@every_layer
def test_the_materialized_network_computes_the_same_for_every_input_size(kind: str) -> None:
    net = network(kind)
    before = copy.deepcopy(net.state_dict())
    free = slimcnn.materialize(net)
    for size in (16, 17, 30):
        x = torch.randn(2, 3, size, size + 1)
        assert torch.equal(free(x), net(x))
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), before.values(), strict=True))
    assert {name for name, _ in free.named_parameters()} == {
        f"{layer}.{name}" for layer in (0, 2, 4) for name in ("weight", "bias") if (layer, name) not in missing(kind)
    }


def missing(kind: str) -> set[tuple[int, str]]:
    return {(0, "bias"), (2, "bias")} if kind.startswith("standardized") else set()


@every_layer
def test_its_channels_are_free_and_the_cut_is_exact(kind: str) -> None:
    net = network(kind)
    free_before = {group.name for group in slimcnn.trace(net, EXAMPLE).groups}
    assert "0" not in free_before or kind == "user's subclass"
    free = slimcnn.materialize(net)
    graph = slimcnn.trace(free, EXAMPLE)
    assert {group.name: group.channels for group in graph.groups} == {"0": 8, "2": 6}
    for seed in range(3):
        plan = some_channels(graph, seed)
        small = slimcnn.prune(free, graph, plan, verify=False)
        assert verify(slimcnn.mask(free, graph, plan), small, graph, plan).equal


@pytest.mark.parametrize("kind", ["standardized", "scaled, SAME", "weight norm", "spectral norm"])
def test_the_reason_of_the_lock_names_materialize(kind: str) -> None:
    (lock,) = (lock for lock in slimcnn.trace(network(kind), EXAMPLE).locked if lock.layer == "0")
    assert "slimcnn.materialize" in lock.reason


@every_layer
def test_a_checkpoint_restores_a_materialized_and_pruned_network(kind: str, tmp_path: Path) -> None:
    free = slimcnn.materialize(network(kind))
    graph = slimcnn.trace(free, EXAMPLE)
    plan = slimcnn.allocate(graph, slimcnn.score(free, graph, "l1"), slimcnn.Target(pruning_ratio=0.5))
    small = slimcnn.prune(free, graph, plan)
    loaded = slimcnn.load(slimcnn.save(small, tmp_path / "net.safetensors"), model=network(kind))
    x = torch.randn(2, 3, 17, 18)
    assert torch.equal(loaded(x), small(x))
    assert materialized_of(loaded) == materialized_of(free)
    slimcnn.save(loaded, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "net.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"computes no weights in layer '\d'"):
        slimcnn.load(tmp_path / "net.safetensors", model=nn.Sequential(nn.Conv2d(3, 8, 3)))


def test_the_rewrite_lists_every_layer_that_computes_its_weights() -> None:
    found = slimcnn.rewriting.rewritten(network("scaled, SAME"), "materialize", EXAMPLE)
    assert [(change.layer, bool(change.what)) for change in found.changes] == [("0", True), ("2", True)]
    again = slimcnn.materialize(found.model)
    assert materialized_of(again) == materialized_of(found.model)


def test_a_layer_used_in_two_places_stays_one_layer() -> None:
    shared = StdConv2d(8, 8, 3, padding=1)
    free = slimcnn.materialize(nn.Sequential(StdConv2d(3, 8, 3), shared, nn.Sequential(shared)).eval())
    assert free[1] is free[2][0]
    assert type(free[1]) is nn.Conv2d


def test_a_weight_that_two_layers_share_is_left() -> None:
    one, two = StdConv2d(8, 8, 3, padding=1), StdConv2d(8, 8, 3, padding=1)
    two.weight = one.weight
    with pytest.raises(ModelError, match="it shares its weights with another layer"):
        slimcnn.materialize(nn.Sequential(one, two))


class Steered(nn.Conv2d):
    """A weight that depends on the input."""

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight * input.mean(), self.bias)


def test_a_weight_that_depends_on_the_input_is_not_replaced() -> None:
    with pytest.raises(ModelError, match="computes none of its weights"):
        slimcnn.materialize(nn.Sequential(Steered(3, 8, 3)))


class Rescaled(nn.Conv2d):
    """More than a convolution with a computed weight."""

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, 2 * self.weight, self.bias).sin()


def test_a_layer_that_computes_more_than_a_convolution_is_left() -> None:
    with pytest.raises(ModelError, match="more than a convolution"):
        slimcnn.materialize(nn.Sequential(Rescaled(3, 8, 3)))


def test_a_frozen_weight_stays_frozen_and_the_mode_of_every_layer_stays() -> None:
    net = nn.Sequential(norms.weight_norm(nn.Conv2d(3, 8, 3)), StdConv2d(8, 4, 3)).requires_grad_(False)
    net[0].eval()
    free = slimcnn.materialize(net)
    assert not any(p.requires_grad for p in free.parameters())
    assert [free.training, free[0].training, free[1].training] == [True, False, True]
    assert isinstance(free[0].weight, nn.Parameter)


def test_a_network_that_computes_no_weights_is_refused() -> None:
    with pytest.raises(ModelError, match="the network computes none of its weights"):
        slimcnn.materialize(nn.Sequential(nn.Conv2d(3, 8, 3)))


def test_feature_reuse_can_follow_but_not_precede_it(tmp_path: Path) -> None:
    layers = [layer for i, o in ((3, 8), (8, 8), (8, 8)) for layer in (StdConv2d(i, o, 3, padding=1), nn.ReLU())]
    net, x = nn.Sequential(*layers).eval(), torch.randn(2, 3, 16, 16)
    both = slimcnn.replace(slimcnn.materialize(net), "feature_reuse", EXAMPLE).eval()
    loaded = slimcnn.load(slimcnn.save(both, tmp_path / "net.safetensors"), model=net)
    assert torch.equal(loaded(x), both(x))
    with pytest.raises(ModelError, match="materialize its weights before"):
        slimcnn.materialize(both)
