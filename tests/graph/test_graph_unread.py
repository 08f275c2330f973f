"""Channels that nobody reads: they may go where the code does not need them."""

from __future__ import annotations

import torch
from torch import nn
from traced import half_of_everything, owned, reasons, sizes, traced

from at_hand import Net

Conv = nn.Conv2d


def first(number: int) -> nn.Module:
    return Net(lambda n, x: n.b(n.a(x)[:, :number].relu()), a=Conv(3, 16, 1), b=Conv(number, 5, 1))


def test_channels_behind_a_slice_of_fixed_length_go_and_the_sliced_ones_stay() -> None:
    model = first(10)
    graph = traced(model)
    assert sizes(graph) == {"a[10-15]": 6}
    positions = [[i] for i in range(10, 16)]
    assert owned(graph, "a[10-15]") == {"a.weight 0": positions, "a.bias 0": positions}
    assert "hard-coded size in the code" in str(reasons(graph)["a"])
    small = half_of_everything(model)
    assert torch.equal(small.a.weight, model.a.weight[[*range(10), *range(13, 16)]])


def test_the_half_behind_a_slice_of_fixed_length_stays_with_the_other_half() -> None:
    """`[:, :8]` of 16 channels is taken for `[:, : c // 2]`, whose halves lose equal numbers."""
    assert sizes(traced(first(8))) == {}


def test_channels_before_a_slice_stay_with_the_sliced_ones() -> None:
    """`[:, 8:]` begins elsewhere if one before it goes."""
    assert sizes(traced(Net(lambda n, x: n.b(n.a(x)[:, 8:].relu()), a=Conv(3, 16, 1), b=Conv(8, 5, 1)))) == {}


def test_a_split_into_fixed_lengths_needs_all_channels() -> None:
    assert sizes(traced(Net(lambda n, x: n.b(n.a(x).split([8, 8], 1)[0]), a=Conv(3, 16, 1), b=Conv(8, 5, 1)))) == {}


def test_a_layer_whose_output_is_not_used_may_lose_its_channels() -> None:
    net = Net(lambda n, x: (n.c(n.a(x)), n.b(n.a(x)))[1], a=Conv(3, 6, 1), b=Conv(6, 5, 1), c=Conv(6, 8, 1))
    assert sizes(traced(net)) == {"a": 6, "c": 8}


def test_channels_times_zero_go_where_the_zeros_can_follow() -> None:
    """Zeros in a buffer shrink with the channels; zeros that the code makes are of a fixed number."""
    zeros = torch.ones(1, 16, 1, 1)
    zeros[:, 8:] = 0
    net = Net(lambda n, x: n.b(n.a(x) * n.zeros), a=Conv(3, 16, 1), b=Conv(16, 5, 1))
    net.register_buffer("zeros", zeros)
    assert sizes(traced(net)) == {"a": 16}
    fixed = traced(Net(lambda n, x: n.b(n.a(x) * zeros), a=Conv(3, 16, 1), b=Conv(16, 5, 1)))
    assert reasons(fixed)["a"] == {"combined with a tensor that cannot be pruned"}
