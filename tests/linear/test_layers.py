"""What is read off one run: which layers can be solved, how they are set, and what comes right behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from at_hand import Net
from slimcnn.linear.layers import LinearLayer, Norm, layers_of
from slimcnn.linear.layerwise_replay import computes

Conv = nn.Conv2d
IMAGE = torch.ones(2, 3, 6, 6)


def found(forward: Callable[..., Any], example: Any = IMAGE, **modules: Any) -> dict[str, LinearLayer]:
    return layers_of(Net(forward, **modules).eval(), example)


class Names(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if computes(func, (*args, *(kwargs or {}).values())):
            self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def operations(model: nn.Module, x: Tensor) -> list[str]:
    with torch.no_grad(), Names() as names:
        model(x)
    return names.names


def test_a_layer_says_how_it_is_set():
    layer = found(lambda net, x: net.a(x), a=Conv(3, 6, (3, 2), (2, 1), (1, 0), (1, 2), groups=3))["a.weight"]
    assert layer == LinearLayer("a.weight", "a.bias", 0, (2, 1), (1, 0), (1, 2), (0, 0), False, 3)
    assert layer.convolution
    assert (layer.made_axis, layer.read_axis) == (0, 1)


def test_a_transposed_convolution_makes_along_its_second_axis():
    module = nn.ConvTranspose2d(3, 6, 3, 2, 1, output_padding=1, groups=3, bias=False)
    layer = found(lambda net, x: net.a(x), a=module)["a.weight"]
    assert layer == LinearLayer("a.weight", None, 0, (2, 2), (1, 1), (1, 1), (1, 1), True, 3)
    assert (layer.made_axis, layer.read_axis) == (1, 0)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_has_no_stride(bias):
    layer = found(lambda net, x: net.a(x), torch.ones(2, 5), a=nn.Linear(5, 4, bias))["a.weight"]
    assert layer == LinearLayer("a.weight", "a.bias" if bias else None, 0)
    assert not layer.convolution


@pytest.mark.parametrize(("module", "shape"), [
    (nn.Conv1d(3, 4, 3, 2), (2, 3, 9)), (nn.Conv3d(3, 4, 2), (2, 3, 4, 4, 4)),
    (nn.ConvTranspose1d(3, 4, 3, 2), (2, 3, 9)), (nn.ConvTranspose3d(3, 4, 2), (2, 3, 4, 4, 4)),
])  # fmt: skip
def test_numbers_are_as_many_as_axes_of_space(module, shape):
    layer = found(lambda net, x: net.a(x), torch.ones(shape), a=module)["a.weight"]
    space = len(shape) - 2
    assert layer.stride == tuple(module.stride)
    assert all(len(v) == space for v in (layer.stride, layer.padding, layer.dilation, layer.extra))


def test_one_number_stands_for_all_axes_of_space():
    layer = found(lambda net, x: F.conv2d(x, net.a.weight, stride=2, padding=1), a=Conv(3, 4, 3))["a.weight"]
    assert (layer.stride, layer.padding, layer.dilation) == ((2, 2), (1, 1), (1, 1))


@pytest.mark.parametrize("example", [IMAGE, (IMAGE,), {"x": IMAGE}])
def test_the_example_may_be_a_tensor_a_tuple_or_a_dict(example):
    assert list(found(lambda net, x: net.a(x), example, a=Conv(3, 4, 1))) == ["a.weight"]


def test_layers_are_listed_in_the_order_of_the_run_with_the_numbers_of_their_operations():
    model = Net(
        lambda net, x: net.c(net.a(F.relu(net.b(x))).mean((2, 3))), c=nn.Linear(4, 2), a=Conv(5, 4, 1), b=Conv(3, 5, 1)
    ).eval()
    layers, names = layers_of(model, IMAGE), operations(model, IMAGE)
    assert list(layers) == ["b.weight", "a.weight", "c.weight"]
    assert [names[layer.operation] for layer in layers.values()] == ["aten::convolution"] * 2 + ["aten::addmm"]


# --- what follows -------------------------------------------------------------------------------------------------


def test_the_norm_behind_a_layer_is_found():
    layer = found(lambda net, x: F.relu(net.n(net.a(x))), a=Conv(3, 4, 1), n=nn.BatchNorm2d(4, eps=0.5))["a.weight"]
    assert layer.norm == Norm("n.running_mean", "n.running_var", "n.weight", 0.5)
    assert layer.added is None


def test_a_norm_without_scale_has_none():
    layer = found(lambda net, x: net.n(net.a(x)), a=Conv(3, 4, 1), n=nn.BatchNorm2d(4, affine=False))["a.weight"]
    assert layer.norm == Norm("n.running_mean", "n.running_var", None, 1e-5)


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(4, track_running_stats=False), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.Identity(), nn.ReLU()],
)
def test_what_is_no_norm_of_fixed_statistics_is_none(norm):
    assert found(lambda net, x: net.n(net.a(x)), a=Conv(3, 4, 1), n=norm)["a.weight"].norm is None


@pytest.mark.parametrize("layer", [Conv(3, 4, 1), nn.ConvTranspose2d(3, 4, 1), Conv(3, 4, 1, bias=False)])
def test_a_norm_is_found_behind_any_layer(layer):
    assert found(lambda net, x: net.n(net.a(x)), a=layer, n=nn.BatchNorm2d(4))["a.weight"].norm is not None


def test_a_norm_is_found_behind_a_linear_layer():
    layers = found(lambda net, x: net.n(net.a(x)), torch.ones(2, 3), a=nn.Linear(3, 4), n=nn.BatchNorm1d(4))
    assert layers["a.weight"].norm is not None


def added_in_place(net: Net, x: Tensor) -> Tensor:
    y = net.n(net.b(net.a(x)))
    y += net.a(x) if net.twice else x
    return y


def in_place_into(net: Net, x: Tensor) -> Tensor:
    y = x * 1
    y += net.n(net.b(net.a(x)))
    return y


SUMS: dict[str, Callable[..., Tensor]] = {
    "x + branch": lambda net, x: x + net.n(net.b(net.a(x))),
    "branch + x": lambda net, x: F.relu(net.n(net.b(net.a(x))) + x),
    "branch += x": added_in_place,
    "x += branch": in_place_into,
    "relu in place": lambda net, x: (x + net.n(net.b(net.a(x).relu_()))).relu_(),
    "function": lambda net, x: torch.add(x, net.n(net.b(net.a(x)))),
    "checkpoint": lambda net, x: x + checkpoint(lambda x: net.n(net.b(net.a(x))), x, use_reentrant=False),
}


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("norm", [True, False])
def test_the_sum_that_a_branch_ends_in_is_found_with_its_norm_or_without(name, norm):
    last = nn.BatchNorm2d(3) if norm else nn.Identity()
    model = Net(SUMS[name], a=Conv(3, 4, 1), b=Conv(4, 3, 1), n=last, twice=False).eval()
    layers = layers_of(model, IMAGE)
    assert (layers["a.weight"].norm, layers["a.weight"].added) == (None, None)
    assert (layers["b.weight"].norm is not None) == norm
    assert operations(model, IMAGE)[layers["b.weight"].added].startswith("aten::add")


def test_both_branches_of_a_sum_name_it():
    layers = found(lambda net, x: net.a(x) + net.b(x), a=Conv(3, 4, 1), b=Conv(3, 4, 1))
    assert layers["a.weight"].added == layers["b.weight"].added == 2


@pytest.mark.parametrize("forward", [
    lambda net, x: net.a(x) * x,
    lambda net, x: net.a(x) + 1,
    lambda net, x: net.a(x) + x.mean((2, 3), keepdim=True),
    lambda net, x: net.a(x).relu() + x,
    lambda net, x: torch.cat([net.a(x), x], 1),
    lambda net, x: net.a(x)[:, :2] + x[:, :2],
])  # fmt: skip
def test_what_is_not_added_as_it_is_to_something_of_its_shape_is_in_no_sum(forward):
    assert found(forward, a=Conv(3, 3, 1))["a.weight"].added is None


@pytest.mark.parametrize("forward", [
    lambda net, x: net.n(y := net.a(x)) + y,
    lambda net, x: net.n(y := net.a(x)) + y.mean(),
    lambda net, x: (y := net.a(x), z := y[:, :1], net.n(y) * z)[-1],
])  # fmt: skip
def test_with_two_readers_the_norm_is_not_the_layers_own(forward):
    layer = found(forward, a=Conv(3, 3, 1), n=nn.BatchNorm2d(3))["a.weight"]
    assert (layer.norm, layer.added) == (None, None)


@pytest.mark.parametrize("forward", [
    lambda net, x: (y := net.n(net.a(x)), y + x + y.mean())[-1],
    lambda net, x: (y := net.n(net.a(x)), z := x + y, z * y)[-1],
])  # fmt: skip
def test_with_two_readers_of_the_norm_the_sum_is_not_the_layers_own(forward):
    layer = found(forward, a=Conv(3, 3, 1), n=nn.BatchNorm2d(3))["a.weight"]
    assert layer.norm is not None
    assert layer.added is None


def test_what_was_written_into_is_no_longer_what_the_layer_made():
    layer = found(lambda net, x: net.a(x).relu_() + x, a=Conv(3, 3, 1))["a.weight"]
    assert layer.added is None


def test_every_block_of_a_resnet_ends_in_its_sum():
    model = tv.resnet18(weights=None).eval()
    x = torch.zeros(1, 3, 32, 32)
    layers, names = layers_of(model, x), operations(model, x)
    assert len(layers) == 21
    assert all(layer.norm is not None for layer in layers.values() if layer.convolution)
    ends = {name: layer.added for name, layer in layers.items() if layer.added is not None}
    last = [f"layer{i}.{j}.conv2.weight" for i in range(1, 5) for j in range(2)]
    shortcuts = [f"layer{i}.0.downsample.0.weight" for i in (2, 3, 4)]
    assert sorted(ends) == sorted(last + shortcuts)
    assert all(names[n] == "aten::add_" for n in ends.values())
    assert all(ends[f"layer{i}.0.conv2.weight"] == ends[f"layer{i}.0.downsample.0.weight"] for i in (2, 3, 4))


# --- what is left out ---------------------------------------------------------------------------------------------


def test_a_weight_used_twice_is_left_out():
    layers = found(lambda net, x: net.b(net.a(net.a(x))), a=Conv(3, 3, 1), b=Conv(3, 2, 1))
    assert list(layers) == ["b.weight"]


def test_two_layers_that_share_a_weight_are_left_out():
    one, other = Conv(3, 3, 1), Conv(3, 3, 1)
    other.weight = one.weight
    assert list(found(lambda net, x: net.c(net.b(net.a(x))), a=one, b=other, c=Conv(3, 2, 1))) == ["c.weight"]


@pytest.mark.parametrize("computed", [
    parametrizations.weight_norm(Conv(3, 4, 1)), parametrizations.spectral_norm(Conv(3, 4, 1)),
    parametrizations.orthogonal(nn.Linear(6, 6)), Net(lambda net, x: F.conv2d(x, net.k.weight * 2), k=Conv(3, 4, 1)),
])  # fmt: skip
def test_a_layer_whose_weight_is_computed_is_left_out(computed):
    layers = found(lambda net, x: net.b(net.a(x).sum(1, keepdim=True)), a=computed, b=Conv(1, 2, 1))
    assert list(layers) == ["b.weight"]


def test_a_layer_whose_bias_is_computed_is_left_out():
    layers = found(lambda net, x: F.conv2d(x, net.a.weight, net.a.bias * 2), a=Conv(3, 4, 1))
    assert not layers


def test_a_layer_that_is_not_run_is_left_out():
    assert list(found(lambda net, x: net.a(x), a=Conv(3, 4, 1), b=Conv(3, 4, 1))) == ["a.weight"]


def test_a_weight_may_be_a_parameter_without_a_layer():
    net = Net(lambda net, x: F.conv2d(x, net.w))
    net.w = nn.Parameter(torch.randn(4, 3, 1, 1))
    assert list(layers_of(net.eval(), IMAGE)) == ["w"]


def test_nothing_is_left_on_the_network():
    model = Net(SUMS["x + branch"], a=Conv(3, 4, 1), b=Conv(4, 3, 1), n=nn.BatchNorm2d(3)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layers_of(model, IMAGE)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
