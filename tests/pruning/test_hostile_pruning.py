"""Plans, criteria and targets that make no sense neither hang nor end in a traceback."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import slimcnn
from slimcnn.errors import PlanError, TargetError
from slimcnn.pruning.criteria.fpdf import fit_distribution


@pytest.mark.parametrize("groups", [{}, "", {"group": 1}, None])
def test_groups_of_a_plan_that_are_no_list_are_refused(groups: object) -> None:
    graph = slimcnn.trace(slimcnn.build("resnet8", in_channels=1), torch.zeros(1, 1, 8, 8))
    data: dict[str, Any] = json.loads(slimcnn.Plan(graph.fingerprint, {}).to_json(graph)) | {"groups": groups}
    with pytest.raises(PlanError, match="not a plan"):
        slimcnn.Plan.from_json(json.dumps(data), graph)


@pytest.mark.parametrize("removed", [[1, 1], {}, "1"])
def test_channels_of_a_plan_are_a_list_without_repetitions(removed: object) -> None:
    graph = slimcnn.trace(slimcnn.build("resnet8", in_channels=1), torch.zeros(1, 1, 8, 8))
    data = json.loads(slimcnn.Plan(graph.fingerprint, {}).to_json(graph))
    data["groups"][0]["removed"] = removed
    with pytest.raises(PlanError, match=r"channel 1 twice|not a list"):
        slimcnn.Plan.from_json(json.dumps(data), graph)


def test_more_bins_than_filters_are_one_bin_per_filter() -> None:
    norms = torch.rand(12)
    distances = torch.cdist(torch.rand(12, 3), torch.rand(12, 3))
    few, many = (fit_distribution(norms, distances, 5, bins) for bins in (12, 10**9))
    assert torch.equal(few, many)


@pytest.mark.parametrize("name", ["round_to", "min_channels"])
def test_a_number_of_channels_beyond_any_layer_is_refused(name: str) -> None:
    with pytest.raises(TargetError, match=name):
        slimcnn.Target(macs=0.5, **{name: 10**23})
