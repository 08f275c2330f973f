"""What a cut does by default in networks with depthwise convolutions: the criterion, and multiples of channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import slimcnn
from slimcnn.graph import ChannelGraph, trace
from slimcnn.pruning import Plan, prune
from slimcnn.running import Context, State
from slimcnn.running.settings import Network
from slimcnn.searching import Search
from slimcnn.show import SILENT
from slimcnn.steps import Prune
from slimcnn.training.processes import launched


def cut(model: nn.Module, **settings: Any) -> tuple[ChannelGraph, Plan]:
    """Return the plan that the step allocates for a network of color images of 32 x 32, by the scores of l2."""
    graph = trace(model, torch.zeros(1, 3, 32, 32))
    step = Prune(scope="local", **settings)
    return graph, step.choose(model, graph, slimcnn.score(model, graph, "l2"), step.target)


def kept(graph: ChannelGraph, plan: Plan) -> list[int]:
    """Return the channels of the groups that lost some."""
    return [
        group.channels - len(plan.removed[group.name])
        for group in graph.groups
        if len(plan.removed.get(group.name, ()))
    ]


@pytest.fixture(scope="module")
def mobilenet() -> nn.Module:
    torch.manual_seed(0)
    return slimcnn.build("mobilenet_v2", width=0.5)


@pytest.mark.parametrize("size", [{"macs": 0.5}, {"params": 0.5}, {}])
def test_depthwise_networks_keep_multiples_of_four_and_say_so(mobilenet: nn.Module, size: dict[str, float]) -> None:
    graph, plan = cut(mobilenet, **size)
    assert kept(graph, plan)
    assert {left % 4 for left in kept(graph, plan)} == {0}
    assert "round_to = 4" in plan.target
    assert "multiples of 4" in plan.notes[-1]
    prune(mobilenet, graph, plan)  # raises an error unless the cut is exact


@pytest.mark.parametrize("said", [{"round_to": 1, "macs": 0.5}, {"pruning_ratio": 0.3}, {"round_to": 2, "macs": 0.5}])
def test_what_the_user_says_is_kept(mobilenet: nn.Module, said: dict[str, Any]) -> None:
    graph, plan = cut(mobilenet, **said)
    assert {left % 4 for left in kept(graph, plan)} != {0}
    assert not plan.notes


def test_networks_without_depthwise_convolutions_keep_any_number() -> None:
    torch.manual_seed(0)
    graph, plan = cut(slimcnn.build("resnet20"), macs=0.5)
    assert {left % 4 for left in kept(graph, plan)} != {0}
    assert not plan.notes


def test_a_size_that_multiples_of_four_miss_takes_smaller_ones() -> None:
    torch.manual_seed(0)
    narrow = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU(),
        nn.Conv2d(6, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10),
    ).eval()  # fmt: skip
    graph, plan = cut(narrow, macs=0.4)
    assert {left % 2 for left in kept(graph, plan)} == {0}
    assert {left % 4 for left in kept(graph, plan)} != {0}
    assert "multiples of 2" in plan.notes[-1]


def test_the_residual_stream_is_spared_before_the_multiple() -> None:
    class Branch(nn.Module):
        """Its inside has six channels: few can go in multiples of 4."""

        def __init__(self) -> None:
            super().__init__()
            self.wide, self.depthwise = nn.Conv2d(16, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6)
            self.narrow = nn.Conv2d(6, 16, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.narrow(torch.relu(self.depthwise(torch.relu(self.wide(x)))))

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1), Branch(), Branch(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    ).eval()
    graph, plan = cut(model, macs=0.7)
    stream = {group.name for group in graph.groups if group.residual}
    assert stream
    assert not stream & plan.removed.keys()
    assert set(kept(graph, plan)) <= {2, 4}
    assert "residual" not in plan.target


def test_a_size_out_of_reach_of_every_multiple_is_the_usual_error(mobilenet: nn.Module) -> None:
    with pytest.raises(slimcnn.errors.TargetUnreachable, match="best possible"):
        cut(mobilenet, macs=0.001)


def planned(model: nn.Module, tmp_path: Path, **settings: Any) -> Plan:
    """Return the plan that the step proposes, on a few digits."""
    data = slimcnn.load_dataset("digits").limit(40)
    network = Network(model="")
    state = State(model, model, data, network, network)
    step = Prune(macs=0.5, batches=1, **settings)
    return step.propose(state, Context(tmp_path, launched(None), SILENT))[2]


class Twice(nn.Module):
    """A pointwise layer that runs twice, so that it has no input statistics."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.relu(self.layer(x)))


def depthwise_net(pointwise: Callable[[int, int], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(),
        pointwise(16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    ).eval()  # fmt: skip


def plain(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 1)


def test_the_criterion_is_reconstruction_with_depthwise_convolutions_and_l2_without(tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert planned(depthwise_net(plain), tmp_path).criterion == "reconstruction"
    assert planned(slimcnn.build("resnet8", in_channels=1), tmp_path).criterion == "l2"
    assert planned(depthwise_net(plain), tmp_path, criterion="l2").criterion == "l2"


def plain_then_twice(inputs: int, outputs: int) -> nn.Module:
    """Two layers, of which only the first has input statistics."""
    return nn.Sequential(nn.Conv2d(inputs, 16, 1), nn.ReLU(), Twice(16, outputs))


@pytest.mark.parametrize("pointwise", [Twice, plain_then_twice], ids=["no layer", "one layer"])
def test_where_reconstruction_cannot_rank_all_layers_the_criterion_is_l2(
    tmp_path: Path, pointwise: Callable[[int, int], nn.Module]
) -> None:
    model = depthwise_net(pointwise)
    graph = trace(model, torch.zeros(1, 1, 8, 8))
    images = [(torch.rand(8, 1, 8, 8), torch.zeros(8, dtype=torch.long))]
    if pointwise is Twice:
        with pytest.raises(slimcnn.errors.CriterionError):
            slimcnn.score(model, graph, "reconstruction", data=images)
    else:
        assert 0 < len(slimcnn.score(model, graph, "reconstruction", data=images).unscored) < len(graph.groups)
    assert planned(model, tmp_path).criterion == "l2"


def test_a_search_cuts_as_a_size_does(tmp_path: Path) -> None:
    """The plan of a search is the one that its size would have got."""
    torch.manual_seed(0)
    model = depthwise_net(plain)
    data = slimcnn.load_dataset("digits").limit(40)
    state = State(model, model, data, Network(model=""), Network(model=""))
    step = Prune(batches=1, search=Search(max_drop=100, macs=(0.6,), refine=0))
    found = step.run(state, Context(tmp_path, launched(None), SILENT))[0].origin.plan
    expected = Prune(batches=1, macs=0.6).propose(state, Context(tmp_path, launched(None), SILENT))[2]
    assert found.criterion == "reconstruction"
    assert "round_to = 4" in found.target
    assert (found.removed, found.target, found.notes) == (expected.removed, expected.target, expected.notes)
