"""Detectors choose by value: equal scores must not refuse a right cut, repeated choices must not hide a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import KeypointRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import MultiScaleRoIAlign, nms

from slimcnn.graph import ChannelGraph, trace
from slimcnn.pruning import Plan, Target, allocate, mask, prune, score, verify
from slimcnn.pruning.choices import SameChoices

IN_FLOAT64 = 1e-9
LAST_BITS = 1e-14
FLAT_BOXES = torch.tensor([[0.0, 0.0, 10.0, 2.0], [0.0, 0.0, 10.0, 4.5], [0.0, 0.0, 10.0, 7.0]], dtype=torch.float64)
"""The middle one overlaps both others by more than 0.4, and these overlap each other by less."""


# --- choices ----------------------------------------------------------------------------------------------------------


Choose = Callable[[Any], Tensor]


def chosen(first: Any, second: Any, choose: Choose) -> tuple[Tensor, Tensor]:
    """What is chosen from `first`, and then, with the same choices, from `second`."""
    choices = SameChoices(IN_FLOAT64)
    with choices:
        one = choose(first)
    with choices.repeated():
        return one, choose(second)


def test_boxes_of_equal_scores_are_kept_alike_although_their_order_changes_their_number() -> None:
    scores = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64)
    ahead, middle_ahead = scores + torch.tensor([2, 0, 1]) * LAST_BITS, scores + torch.tensor([0, 2, 1]) * LAST_BITS
    assert len(nms(FLAT_BOXES, ahead, 0.4)) != len(nms(FLAT_BOXES, middle_ahead, 0.4))
    one, two = chosen(ahead, middle_ahead, lambda scores: nms(FLAT_BOXES, scores, 0.4))
    assert torch.equal(one, two)


def test_the_place_of_a_maximum_is_not_repeated_on_a_map_of_another_size() -> None:
    one, two = chosen(torch.eye(3)[:, [2, 1, 0]], torch.eye(3)[:, [0, 1]], lambda scores: scores.argmax(1))
    assert one.tolist() == [2, 1, 0]
    assert two.tolist() == [0, 1, 0]


CHOICES: dict[str, Choose] = {
    "gt": lambda x: x > 0.5,
    "argmax": lambda x: x.argmax(),
    "topk": lambda x: x.topk(2).indices,
    "sort": lambda x: x.sort().indices,
    "nms": lambda x: nms(FLAT_BOXES, x, 0.4),
    "nonzero": lambda x: (x > 0.5).nonzero(),
}


@pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)
def test_a_choice_from_other_values_is_not_repeated(choose: Choose) -> None:
    right = torch.tensor([0.9, 0.1, 0.2], dtype=torch.float64)
    wrong = torch.tensor([0.1, 0.9, 0.6], dtype=torch.float64)
    one, two = chosen(right, wrong, choose)
    assert torch.equal(two, choose(wrong))
    assert one.tolist() != two.tolist()


def test_infinite_and_undefined_scores_do_not_hinder() -> None:
    scores = torch.tensor([float("-inf"), float("nan"), 0.5, 0.5], dtype=torch.float64)
    one, two = chosen(scores + torch.tensor([0, 0, 0, 1]) * LAST_BITS, scores, lambda x: x > 0.5)
    assert one.tolist() == two.tolist() == [False, False, False, True]


def test_a_threshold_that_is_computed_may_differ_by_its_last_bits() -> None:
    scores = torch.tensor([0.3, 0.3], dtype=torch.float64)
    one, two = chosen(0.3 - LAST_BITS, 0.3, lambda threshold: scores > threshold)
    assert one.all()
    assert two.all()


# --- a keypoint R-CNN -------------------------------------------------------------------------------------------------


class Shaken(nn.Module):
    """Shakes the last bits of every row, as sums over fewer channels do, by an amount that belongs to one network."""

    def __init__(self) -> None:
        super().__init__()
        self.seed = 0

    def forward(self, rows: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        shake = torch.randn(len(rows), 1, generator=generator, dtype=torch.float64)
        return rows * (1 + LAST_BITS * shake).to(rows.dtype)


class BoxPredictor(nn.Module):
    """Every box gets the same scores, so that rounding alone decides which of them are kept."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.scores, self.shaken, self.boxes = nn.Linear(inputs, 2), Shaken(), nn.Linear(inputs, 8)
        nn.init.zeros_(self.scores.weight)
        with torch.no_grad():
            self.scores.bias.copy_(torch.tensor([0.1, 0.4]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.shaken(self.scores(x)), self.boxes(x)


def keypoint_network() -> nn.Module:
    """A keypoint R-CNN that works on images of 32 × 40 pixels and finds some tens of boxes."""
    torch.manual_seed(0)
    backbone: Any = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
    backbone.out_channels = 8
    box_head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 3 * 3, 16), nn.ReLU())
    model: nn.Module = KeypointRCNN(
        backbone, min_size=32, max_size=40, rpn_anchor_generator=AnchorGenerator(((8, 16, 24),), ((0.3, 1.0, 3.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2), box_head=box_head, box_predictor=BoxPredictor(16),
        keypoint_roi_pool=MultiScaleRoIAlign(["0"], 4, 2), keypoint_head=KeypointRCNNHeads(8, (8, 8)),
        keypoint_predictor=KeypointRCNNPredictor(8, 3), rpn_post_nms_top_n_test=60, rpn_nms_thresh=0.9,
    )  # fmt: skip
    return model.eval()


Cut = tuple[nn.Module, nn.Module, ChannelGraph, Plan]


@pytest.fixture(scope="module")
def traced() -> tuple[nn.Module, ChannelGraph, Plan]:
    model = keypoint_network()
    graph = trace(model, [torch.rand(3, 32, 40, generator=torch.Generator().manual_seed(0))])
    return model, graph, allocate(graph, score(model, graph, "l2"), Target(pruning_ratio=0.5))


@pytest.fixture
def cut(traced: tuple[nn.Module, ChannelGraph, Plan]) -> Cut:
    """A masked and a pruned network whose equal scores differ by their last bits."""
    model, graph, plan = traced
    masked, small = mask(model, graph, plan), prune(model, graph, plan, verify=False)
    small.roi_heads.box_predictor.shaken.seed = 1
    return masked, small, graph, plan


def test_a_network_whose_answers_hang_on_last_bits_is_cut_and_proven(cut: Cut) -> None:
    masked, small, graph, plan = cut
    image = [torch.randn(3, 32, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)]
    with torch.no_grad():
        found = [len(network.double()(image)[0]["boxes"]) for network in (masked, small)]
    assert found[0] != found[1], "else this test proves nothing"
    assert isinstance(small.roi_heads, RoIHeads)
    assert small.backbone[0].out_channels == 4
    assert small.roi_heads.keypoint_head[0].out_channels == 4
    verdict = verify(masked, small, graph, plan)
    assert verdict.equal, verdict


HALVED = ("backbone.0", "roi_heads.box_head.1", "roi_heads.keypoint_head.0", "roi_heads.keypoint_head.2")


@pytest.mark.parametrize("layer", HALVED)
def test_a_wrong_channel_is_found_there(cut: Cut, traced: tuple[nn.Module, ChannelGraph, Plan], layer: str) -> None:
    masked, _, graph, plan = cut
    group = next(group.name for group in graph.groups if layer in group.layers)
    removed = dict(plan.removed)
    kept = set(range(graph[group].channels)) - set(removed[group])
    removed[group] = tuple(sorted((*removed[group][1:], min(kept))))
    wrong = prune(traced[0], graph, Plan(graph.fingerprint, removed), verify=False)
    wrong.roi_heads.box_predictor.shaken.seed = 1
    assert not verify(masked, wrong, graph, plan).holds


@pytest.mark.parametrize("layer", [*HALVED, "roi_heads.keypoint_predictor.kps_score_lowres"])
def test_a_number_that_is_wrong_by_one_part_in_a_million_is_found_there(cut: Cut, layer: str) -> None:
    masked, small, graph, plan = cut
    small.get_parameter(f"{layer}.weight").data *= 1 + 1e-6
    assert not verify(masked, small, graph, plan).holds
