"""Statistics over groups of channels (EvoNorm, a group norm written by hand): exact cuts remove whole groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from traced import half_of_everything, owned, reasons, sizes, traced

from at_hand import Net

Conv = nn.Conv2d


class GroupDeviation(nn.Module):
    """Divide by the standard deviation of each group of channels, as EvoNorm-S0 does."""

    def __init__(self, channels: int, groups: int = 0, group_size: int = 0, literal: int = 0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels) + 0.5)
        self.shift = nn.Parameter(torch.rand(channels) - 0.5)
        if groups:
            self.groups = groups
        if group_size:
            self.group_size = group_size
        self.literal = {"groups": literal}  # not a list or tuple: nothing follows a cut here

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        groups = self.literal["groups"] or (self.groups if hasattr(self, "groups") else c // self.group_size)
        assert c % groups == 0
        parts = x.reshape(n, groups, c // groups, h, w)
        deviation = parts.var(dim=(2, 3, 4), unbiased=False, keepdim=True).add(1e-5).sqrt()
        divided = x * x.sigmoid() / deviation.expand(parts.shape).reshape(n, c, h, w)
        return divided * self.scale.view(1, -1, 1, 1) + self.shift.view(1, -1, 1, 1)


def network(channels: int, **norm: int) -> nn.Module:
    return nn.Sequential(Conv(3, channels, 1), GroupDeviation(channels, **norm), Conv(channels, 5, 1))


@pytest.mark.parametrize(("channels", "norm"), [
    (32, {"groups": 4}), (32, {"groups": 8}), (32, {"groups": 32}), (32, {"group_size": 8}), (32, {"group_size": 4}),
])  # fmt: skip
def test_a_group_that_is_normalized_together_can_only_be_removed_whole(channels: int, norm: dict[str, int]) -> None:
    groups = norm.get("groups") or channels // norm["group_size"]
    each = channels // groups
    model = network(channels, **norm)
    graph = traced(model)
    assert sizes(graph) == {"0": groups}
    assert owned(graph, "0")["0.weight 0"] == [list(range(i * each, (i + 1) * each)) for i in range(groups)]
    small = half_of_everything(model)
    assert small[0].weight.shape[0] == channels // 2
    if "groups" in norm:
        assert (model[1].groups, small[1].groups) == (groups, groups // 2)


@pytest.mark.parametrize("groups", [4, 16])
def test_a_number_of_groups_that_cannot_follow_locks_the_channels(groups: int) -> None:
    graph = traced(network(32, literal=groups))
    assert sizes(graph) == {}
    assert "hard-coded size in the code" in str(reasons(graph)["0"])


def test_layers_of_different_width_in_one_stream_lose_the_same_share_of_their_groups() -> None:
    """A residual block: the stream has groups of 8 channels, the bottleneck groups of 4."""

    def run(n: Any, x: Tensor) -> Tensor:
        y = n.norm(n.stem(x))
        return n.head(y + n.back(n.inner(n.reduce(y))))

    model = Net(run, stem=Conv(3, 32, 1), norm=GroupDeviation(32, groups=4), reduce=Conv(32, 16, 1),
                inner=GroupDeviation(16, groups=4), back=Conv(16, 32, 3, padding=1), head=Conv(32, 5, 1))  # fmt: skip
    graph = traced(model)
    assert sizes(graph) == {"stem": 4, "reduce": 4}
    assert {(size.module, size.name) for size in graph.sizes} == {("norm", "groups"), ("inner", "groups")}


def test_parts_that_are_shuffled_or_chunked_keep_their_number() -> None:
    """The number of parts follows only where every part is one channel: a shuffle still needs all its parts."""

    def run(n: Any, x: Tensor) -> Tensor:
        y = n.a(x)
        return n.b(y.view(x.shape[0], 4, -1, *y.shape[2:]).transpose(1, 2).reshape(y.shape))

    graph = traced(Net(run, a=Conv(3, 32, 1), b=Conv(32, 5, 1)))
    assert owned(graph, "a")["a.weight 0"] == [[i, 8 + i, 16 + i, 24 + i] for i in range(8)]
