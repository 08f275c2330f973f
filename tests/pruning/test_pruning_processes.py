"""Two processes score different data, and agree on one plan or say that they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from networks_to_prune import image, plain
from torch import Tensor, multiprocessing
from two_pruners import main

from slimcnn.graph import trace
from slimcnn.pruning import score


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(main, args=(str(folder),), nprocs=2)
    return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(2)]


def alone(rank: int) -> dict[str, Tensor]:
    """The scores that a process would have without the other."""
    torch.manual_seed(0)
    model = plain(8, 6)
    generator = torch.Generator().manual_seed(rank)
    data = [(torch.randn(4, 3, 4, 4, generator=generator), torch.randint(5, (4,), generator=generator))]
    return dict(score(model, trace(model, image()), "taylor", data).values)


@pytest.mark.slow
def test_scores_from_data_are_averaged_over_the_processes(found: list[dict[str, Any]]) -> None:
    assert found[0]["scores"] == found[1]["scores"]
    one, two = alone(0), alone(1)
    assert not torch.allclose(one["0"], two["0"])
    for name in one:
        assert torch.allclose(torch.tensor(found[0]["scores"][name], dtype=torch.float64), (one[name] + two[name]) / 2)


def test_all_processes_make_the_same_plan(found: list[dict[str, Any]]) -> None:
    assert found[0]["plan"] == found[1]["plan"]
    assert json.loads(found[0]["plan"])["groups"][0]["removed"]


def test_different_plans_are_refused_in_every_process(found: list[dict[str, Any]]) -> None:
    for process in found:
        assert process["refused"].startswith("the processes made different plans (2 of 2)")


def test_different_networks_are_refused_in_every_process(found: list[dict[str, Any]]) -> None:
    for process in found:
        assert process["other_network"].startswith("the processes hold different networks")
