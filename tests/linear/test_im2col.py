"""A layer is a matrix on windows of its input, whatever its kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from at_hand import Net
from slimcnn.linear.im2col import as_matrix, as_weight, inputs_at, outputs_at, positions_of
from slimcnn.linear.layers import LinearLayer, layers_of
from slimcnn.linear.layerwise_replay import LayerwiseReplay, ReplayedOp

KINDS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "1d": (nn.Conv1d(4, 6, 3), (2, 4, 7)),
    "1d all": (nn.Conv1d(4, 6, 3, 2, 3, 2, 2), (2, 4, 11)),
    "2d": (nn.Conv2d(4, 6, 3), (2, 4, 5, 6)),
    "2d one": (nn.Conv2d(4, 6, 1), (2, 4, 5, 6)),
    "2d stride": (nn.Conv2d(4, 6, 3, stride=2), (2, 4, 7, 8)),
    "2d stride beyond kernel": (nn.Conv2d(4, 6, 2, stride=3), (2, 4, 7, 8)),
    "2d padding": (nn.Conv2d(4, 6, 3, padding=2), (2, 4, 3, 4)),
    "2d dilation": (nn.Conv2d(4, 6, 3, dilation=2), (2, 4, 7, 6)),
    "2d uneven": (nn.Conv2d(4, 6, (3, 2), (1, 2), (2, 0), (2, 3)), (2, 4, 7, 9)),
    "2d groups": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (2, 4, 5, 5)),
    "2d depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4), (2, 4, 5, 5)),
    "2d depthwise of two": (nn.Conv2d(4, 8, 3, 2, 1, groups=4), (2, 4, 5, 5)),
    "2d all": (nn.Conv2d(4, 6, (2, 3), (3, 2), (2, 1), (2, 1), 2), (3, 4, 8, 7)),
    "2d same": (nn.Conv2d(4, 6, 3, padding="same"), (2, 4, 5, 5)),
    "2d same, one side": (nn.Conv2d(4, 6, (2, 4), padding="same"), (2, 4, 5, 6)),
    "2d reflect": (nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="reflect"), (2, 4, 5, 6)),
    "2d circular": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 5, 6)),
    "3d": (nn.Conv3d(2, 3, 2), (2, 2, 3, 4, 5)),
    "3d all": (nn.Conv3d(2, 4, (1, 2, 3), (1, 2, 1), (0, 1, 2), (1, 2, 1), 2), (2, 2, 3, 5, 4)),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, 2), (2, 4, 5)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3), (2, 4, 4, 5)),
    "transposed one": (nn.ConvTranspose2d(4, 6, 1), (2, 4, 4, 5)),
    "transposed stride": (nn.ConvTranspose2d(4, 6, 2, stride=2), (2, 4, 4, 5)),
    "transposed padding": (nn.ConvTranspose2d(4, 6, 3, padding=1), (2, 4, 4, 5)),
    "transposed padding beyond": (nn.ConvTranspose2d(4, 6, 2, 2, padding=2), (2, 4, 4, 5)),
    "transposed more at the end": (nn.ConvTranspose2d(4, 6, 3, 2, 1, (1, 0)), (2, 4, 4, 5)),
    "transposed groups": (nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 4, 4, 5)),
    "transposed depthwise": (nn.ConvTranspose2d(4, 4, 3, 2, groups=4), (2, 4, 4, 5)),
    "transposed all": (nn.ConvTranspose2d(4, 6, (2, 3), (3, 2), (1, 2), (1, 1), 2, dilation=(2, 1)), (2, 4, 4, 5)),
    "transposed more than stride": (nn.ConvTranspose2d(4, 6, 2, 1, 0, 1, dilation=2), (2, 4, 4, 5)),
    "transposed 3d": (nn.ConvTranspose3d(2, 4, (1, 2, 3), (1, 2, 2), 0, (0, 1, 0), 2), (2, 2, 2, 3, 3)),
    "linear": (nn.Linear(5, 4), (3, 5)),
    "linear without bias": (nn.Linear(5, 4, bias=False), (3, 5)),
    "linear on rows": (nn.Linear(5, 4), (3, 7, 5)),
}

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")


def recorded(module: nn.Module, shape: tuple[int, ...]) -> tuple[LinearLayer, Tensor, Tensor, ReplayedOp]:
    """The layer as it was found, its weight and bias, and its operation as a run shows it; in float64."""
    torch.manual_seed(1)
    model, x = Net(lambda net, x: net.a(x), a=module).double().eval(), torch.randn(shape, dtype=torch.float64)
    layer = layers_of(model, x)["a.weight"]
    seen: list[ReplayedOp] = []
    LayerwiseReplay(model, [x]).go(
        0, layer.operation, [layer.operation], lambda _, n, operation: seen.append(operation)
    )
    bias: Any = module.bias.detach() if module.bias is not None else torch.zeros(1).double()
    return layer, module.weight.detach(), bias, seen[0]


def read(operation: ReplayedOp) -> Tensor:
    tensor: Tensor = operation.args[1] if len(operation.args) == 3 else operation.args[0]
    return tensor


@pytest.mark.parametrize("kind", KINDS)
def test_windows_times_the_matrix_are_what_the_layer_makes(kind):
    layer, weight, bias, operation = recorded(*KINDS[kind])
    made = operation.out - bias.view(1, -1, *[1] * (operation.out.dim() - 2))
    positions = positions_of(layer, made, 10**9)
    rows = inputs_at(layer, read(operation), weight, made, positions)
    expected = outputs_at(layer, made, positions)
    torch.testing.assert_close(rows @ as_matrix(layer, weight).transpose(1, 2)[:, None], expected, rtol=0, atol=1e-12)
    assert expected.numel() == made.numel()


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_positions_are_those_of_all(kind):
    layer, weight, _, operation = recorded(*KINDS[kind])
    every = positions_of(layer, operation.out, 10**9)
    some = positions_of(layer, operation.out, 3)
    assert len(some) == min(3, len(every))
    assert torch.equal(some, positions_of(layer, operation.out, 3))
    x = read(operation)
    all_rows, few_rows = (inputs_at(layer, x, weight, operation.out, p) for p in (every, some))
    assert torch.equal(all_rows[:, :, some], few_rows)
    all_made, few_made = (outputs_at(layer, operation.out, p) for p in (every, some))
    assert torch.equal(all_made[:, :, some], few_made)


@pytest.mark.parametrize("kind", KINDS)
def test_a_matrix_becomes_the_weight_that_it_came_from(kind):
    layer, weight, _, _ = recorded(*KINDS[kind])
    matrix = as_matrix(layer, weight)
    assert matrix.shape[0] == layer.groups
    assert torch.equal(as_weight(layer, matrix, weight.shape), weight)
    other = torch.randn_like(matrix)
    assert torch.equal(as_matrix(layer, as_weight(layer, other, weight.shape)), other)


def test_channels_of_a_group_come_out_in_the_order_of_the_layer():
    layer, _, _, operation = recorded(*KINDS["transposed groups"])
    positions = positions_of(layer, operation.out, 10**9)
    found = outputs_at(layer, operation.out, positions)
    assert torch.equal(found.permute(1, 0, 3, 2).reshape(operation.out.shape), operation.out)


def test_positions_are_spread_and_in_order():
    layer = LinearLayer("w", None, 0, (1, 1), (0, 0), (1, 1), (0, 0))
    made = torch.empty(2, 3, 100, 100)
    positions = positions_of(layer, made, 500)
    assert torch.equal(positions, positions.unique())
    assert all(100 < count < 150 for count in torch.histc(positions.float(), 4, 0, 10**4).tolist())


def test_memory_order_makes_no_difference():
    layer, weight, _, operation = recorded(*KINDS["2d all"])
    x, positions = read(operation), positions_of(layer, operation.out, 5)
    last = x.to(memory_format=torch.channels_last)
    assert torch.equal(
        inputs_at(layer, x, weight, operation.out, positions), inputs_at(layer, last, weight, operation.out, positions)
    )
