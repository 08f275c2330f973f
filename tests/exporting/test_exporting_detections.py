"""Detections of a file and of a network are compared image by image; what proves nothing is not called equal."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import boxes as operations

from slimcnn.exporting.detection_parity import _changed_by_rounding, compare_detections, detections
from slimcnn.exporting.detectors import without_branches

NAMES = ("boxes", "labels", "scores")


def found(*rows: tuple[float, float, int, float]) -> dict[str, Any]:
    """Detections of an image from (x1, y1, label, score): boxes of 10 x 10 pixels."""
    return {
        "boxes": np.array([[x, y, x + 10, y + 10] for x, y, _, _ in rows], np.float32).reshape(-1, 4),
        "labels": np.array([label for *_, label, _ in rows], np.int64),
        "scores": np.array([score for *_, score in rows], np.float32),
    }


ONE, OTHER = (0.0, 0.0, 1, 0.9), (40.0, 40.0, 1, 0.9)


def test_the_order_of_equally_sure_detections_does_not_count() -> None:
    parity = compare_detections([found(ONE, OTHER)], [found(OTHER, ONE)])
    assert (parity.status, parity.max_error, parity.detections_agree, parity.detections) == ("equal", 0.0, 100.0, 2)
    assert parity.agreement is None


@pytest.mark.parametrize(
    "wrong", [found(ONE), found(ONE, (40.0, 40.0, 2, 0.9)), found(ONE, OTHER, OTHER)], ids=["fewer", "label", "more"]
)
def test_another_number_or_label_of_detections_is_a_mismatch(wrong: dict[str, Any]) -> None:
    parity = compare_detections([found(ONE, OTHER)] * 2, [found(ONE, OTHER), wrong])
    assert (parity.status, parity.why) == ("mismatch", "other detections in 1 of 2 images")
    assert parity.max_error == 0.0
    assert parity.detections_agree is not None
    assert 50 < parity.detections_agree < 100


def test_a_moved_box_a_changed_score_and_a_changed_further_tensor_are_mismatches_with_their_error() -> None:
    expected = [found(ONE, OTHER)]
    moved = compare_detections(expected, [found(ONE, (40.5, 40.0, 1, 0.9))])
    assert (moved.status, moved.max_error, moved.why) == ("mismatch", pytest.approx(0.01), "the error is above 0.0001")
    surer = compare_detections(expected, [found(ONE, (40.0, 40.0, 1, 0.99))])
    assert (surer.status, surer.max_error) == ("mismatch", pytest.approx(0.1))
    masks = [one | {"masks": np.full((2, 1, 4, 4), value, np.float32)} for one in expected for value in (1.0, 0.5)]
    assert compare_detections(masks[:1], masks[1:]).max_error == pytest.approx(0.5)


def test_values_that_are_not_numbers_are_a_mismatch() -> None:
    assert compare_detections([found(ONE)], [found((0.0, 0.0, 1, float("nan")))]).status == "mismatch"


def test_images_without_any_detection_prove_nothing() -> None:
    parity = compare_detections([found()] * 3, [found()] * 3)
    assert (parity.status, parity.max_error, parity.detections) == ("unproven", None, 0)
    assert parity.detections_agree is None
    assert str(parity).startswith("unproven: nothing was detected in any of 3 images")


def test_an_image_that_rounding_decides_is_a_near_tie_and_most_detections_of_them_prove_nothing() -> None:
    expected, wrong = [found(ONE, OTHER)] * 3, [found(ONE, OTHER), found(ONE, OTHER), found(ONE)]
    parity = compare_detections(expected, wrong, unstable=set)
    assert (parity.status, parity.near_ties, parity.max_error) == ("equal", 1, 0.0)
    assert parity.detections_agree == pytest.approx(500 / 6)
    most = compare_detections(expected, [found(), found(), found(ONE)], unstable=set)
    assert (most.status, most.near_ties, most.why) == (
        "unproven", 3, "rounding alone changes most detections: only 1 of 6 agree"
    )  # fmt: skip
    assert compare_detections(expected, wrong).status == "mismatch"


class Threshold(nn.Module):
    """Detects one box in an image whose first value is above its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        n = int(x[0, 0, 0, 0] > self.weight)
        return torch.ones(n, 4), torch.ones(n, dtype=torch.int64), torch.ones(n)


def test_only_images_at_a_threshold_of_the_network_are_changed_by_rounding() -> None:
    network, x = Threshold(), torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1, 1)
    expected = detections(network, [x], NAMES)
    assert [len(one["labels"]) for one in expected] == [0, 0, 1]
    assert _changed_by_rounding(network, [x], expected, {0: 1, 1: 1, 2: 1}, 1e-4) == {1}
    assert _changed_by_rounding(network, [x], expected, {1: 3}, 1e-4) == set()  # more than rounding explains
    assert network.weight.item() == 0.5


@pytest.mark.parametrize("n", [0, 1, 30, 1200])  # torchvision goes another way above 1,000 boxes
def test_suppression_without_branches_keeps_what_torchvision_keeps(n: int) -> None:
    draw = torch.Generator().manual_seed(n)
    corner, size = torch.rand(n, 2, generator=draw) * 100, torch.rand(n, 2, generator=draw) * 40 + 1
    boxes, scores = torch.cat([corner, corner + size], 1), torch.rand(n, generator=draw)
    labels = torch.randint(1, 4, (n,), generator=draw)
    expected = operations.batched_nms(boxes, scores, labels, 0.5)
    with without_branches():
        assert operations.batched_nms is not None
        kept = operations.batched_nms(boxes, scores, labels, 0.5)
    assert kept.tolist() == expected.tolist()


def test_torchvision_is_restored_even_after_an_error() -> None:
    import torchvision.ops
    from torchvision.ops import poolers

    before = (torchvision.ops.batched_nms, operations.batched_nms)
    with pytest.raises(RuntimeError), without_branches():  # noqa: PT012 - the error ends the block
        assert operations.batched_nms is not before[1]
        assert poolers.len([1, 2]) == 2
        raise RuntimeError
    assert (torchvision.ops.batched_nms, operations.batched_nms) == before
    assert "len" not in vars(sys.modules["torchvision.ops.poolers"])
