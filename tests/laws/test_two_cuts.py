"""The law: what two cuts leave of every parameter are the positions that `composed` says."""

from __future__ import annotations

import pytest
import torch
from law_networks import NETWORKS
from torch import nn

import slimcnn
from at_hand import randomize
from slimcnn.graph.removal import composed, kept_positions
from slimcnn.graph.shrinking import cut


@pytest.mark.parametrize("name", NETWORKS)
def test_two_cuts_leave_the_composed_positions_of_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    whole = NETWORKS[name]()
    randomize(whole)
    model: nn.Module = whole
    kept: dict[str, dict[int, torch.Tensor]] = {}
    for seed in (0, 1):
        graph = slimcnn.trace(model, torch.zeros(1, 3, 8, 8))
        scores = slimcnn.score(model, graph, "random", seed=seed)
        plan = slimcnn.allocate(graph, scores, slimcnn.Target(pruning_ratio=0.3))
        model = slimcnn.prune(model, graph, plan)
        found = composed(kept, kept_positions(graph, plan.by_index(graph)))
        assert found is not None
        kept = found
    assert kept
    before = dict(whole.named_parameters())
    for parameter, tensor in model.named_parameters():
        assert torch.equal(cut(before[parameter], kept.get(parameter, {})), tensor), parameter


def test_positions_within_blocks_are_composed_block_by_block_and_lost_blocks_are_not_guessed() -> None:
    first = {"a": {1: torch.tensor([[0, 2], [1, 3]])}}
    found = composed(first, {"a": {1: torch.tensor([[1], [0]])}})
    assert found is not None
    assert found["a"][1].tolist() == [[2], [1]]
    assert composed(first, {"a": {1: torch.tensor([[1]])}}) is None
