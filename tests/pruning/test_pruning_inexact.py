"""Channels that are normalized together: they stay, or go with a verdict that says why equality cannot be."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimcnn.graph import trace
from slimcnn.pruning import Plan, Target, allocate, mask, prune, score, verify
from slimcnn.pruning.verify import NormsOnlyScale


def with_group_norm() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(216, 5)
    )


class Channelwise(nn.Module):
    """A block like ConvNeXt's: depthwise, layer norm over the channels of each pixel, two linear layers, a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.spatial = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm, self.widen, self.narrow = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.rand(8) + 0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.spatial(x).permute(0, 2, 3, 1))
        y = self.narrow(F.gelu(self.widen(y))) * self.scale
        return self.head((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


def image() -> Tensor:
    return torch.zeros(1, 3, 8, 8)


def test_channels_that_are_normalized_together_stay_by_default() -> None:
    for model, layer in ((with_group_norm(), "0"), (Channelwise(), "stem")):
        reasons = {lock.layer: lock.reason for lock in trace(model, image()).locked}
        assert reasons[layer] == "normalized together: the statistics would change"


def test_with_inexact_they_go_and_the_verdict_says_why_equality_cannot_be() -> None:
    torch.manual_seed(0)
    model = Channelwise()
    graph = trace(model, image(), inexact=True)
    assert {group.name: group.channels for group in graph.groups} == {"stem": 8, "widen": 16}
    assert "native_layer_norm in norm" in graph["stem"].inexact
    assert graph["widen"].inexact == ""
    plan = allocate(graph, score(model, graph, "l1"), Target(pruning_ratio=0.5))
    small = prune(model, graph, plan)
    assert small.norm.normalized_shape == (4,)
    assert small.norm.weight.shape == small.scale.shape == (4,)
    verdict = verify(mask(model, graph, plan), small, graph, plan)
    assert (verdict.equal, verdict.holds) == (False, True)
    assert verdict.error > 1e-6
    assert "native_layer_norm in norm" in verdict.inexact
    assert "cannot be equal, because" in str(verdict)
    before = small.stem.weight.detach().clone()
    optimizer = torch.optim.SGD(small.train().parameters(), lr=0.1)
    F.cross_entropy(small(torch.randn(4, 3, 8, 8)), torch.arange(4)).backward()
    optimizer.step()
    assert not torch.equal(small.stem.weight, before)


def test_a_plan_that_spares_them_is_still_proven_equal() -> None:
    model = Channelwise()
    graph = trace(model, image(), inexact=True)
    plan = Plan(graph.fingerprint, {"widen": (0, 5)})
    verdict = verify(mask(model, graph, plan), prune(model, graph, plan), graph, plan)
    assert verdict.equal
    assert verdict.inexact == ""


def test_every_group_of_a_group_norm_keeps_equally_many() -> None:
    model = with_group_norm()
    graph = trace(model, image(), inexact=True)
    assert [part.tolist() for part in graph["0"].parts] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    small = prune(model, graph, Plan(graph.fingerprint, {"0": (0, 7)}))
    assert (small[1].num_channels, small[1].num_groups) == (6, 2)
    assert small(torch.randn(2, 3, 8, 8)).shape == (2, 5)


def test_a_mistake_beside_the_norms_is_still_found() -> None:
    model = Channelwise()
    graph = trace(model, image(), inexact=True)
    plan = Plan(graph.fingerprint, {"stem": (1, 2)})
    small = prune(model, graph, plan)
    with torch.no_grad():
        small.widen.weight[0, 0] += 0.1
    verdict = verify(mask(model, graph, plan), small, graph, plan)
    assert not verdict.holds
    assert verdict.layer == "widen"


def test_norms_that_only_scale_forget_their_statistics() -> None:
    x, weight, bias = torch.randn(2, 4, 3, dtype=torch.float64), torch.rand(3).double(), torch.rand(3).double()
    with torch.no_grad(), NormsOnlyScale():
        found = F.layer_norm(x, (3,), weight, bias)
        grouped = F.group_norm(x.transpose(1, 2).contiguous(), 3, weight, bias)
        bare = F.layer_norm(x, (3,))
    assert torch.equal(found, x * weight + bias)
    assert torch.equal(grouped.transpose(1, 2), found)
    assert torch.equal(bare, x)
