"""Run folders of versions in which the metric of every task was called top1."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import earlier_names
import slimcnn
from slimcnn.reporting import read_report
from slimcnn.running import recipe_from, run
from slimcnn.running.opening import open_run
from slimcnn.show import Show

SEARCH = {"max_drop": 60, "pruning_ratios": [0.1, 0.3], "refine": 0}


def asked(out: Path) -> slimcnn.Recipe:
    steps = [
        {"step": "train", "epochs": 2, "batch_size": 32},
        {"step": "prune", "search": SEARCH},
        {"step": "distill", "epochs": 2, "batch_size": 32},
    ]
    data = {"name": "digits", "limit": 100}
    quick = {"deterministic": True, "latency_seconds": 0.01}
    return recipe_from({"network": {"model": "resnet8"}, "data": data, "steps": steps, "out": str(out)} | quick)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    run(asked(out))
    assert (out / "3-distill" / "learning_rate.json").exists()
    return out


@pytest.fixture
def earlier(finished: Path, tmp_path: Path) -> Path:
    return earlier_names.rewrite_run(shutil.copytree(finished, tmp_path / "run"))


def test_a_run_that_an_earlier_version_finished_is_not_run_again(earlier: Path, finished: Path) -> None:
    said: list[str] = []
    found = run(asked(earlier), show=Show(say=said.append))
    assert "already done: 1-train, 2-prune, 3-distill" in said
    assert not [line for line in said if "measuring" in line or line.startswith(("[", "writing"))]
    first = read_report(finished)
    assert (found.report.steps, found.report.reference_metric) == (first.steps, first.reference_metric)


def test_a_run_that_an_earlier_version_did_not_finish_ends_with_the_same_network(earlier: Path, finished: Path) -> None:
    (earlier / "3-distill" / "done.json").unlink()
    said: list[str] = []
    found = run(asked(earlier), show=Show(say=said.append))
    assert "already done: 1-train, 2-prune" in said
    assert sum("(resumed)" in line for line in said) == 2
    assert not [line for line in said if "trying learning rate" in line]
    first = read_report(finished)
    assert [step.metric for step in found.report.steps] == [step.metric for step in first.steps]
    expected = slimcnn.load(finished / "compressed.safetensors").state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.model.state_dict().items())
    assert [one.data["epochs"][0]["epoch"] for one in figures(found.report, "training")] == [1, 1]


def test_a_run_of_an_earlier_version_is_opened(earlier: Path, finished: Path) -> None:
    found, expected = open_run(earlier).model.state_dict(), open_run(finished).model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def figures(report: slimcnn.reporting.Report, name: str) -> list[slimcnn.reporting.sections.Figure]:
    blocks = [block for section in report.sections for block in section.blocks]
    return [block for block in blocks if block.kind == "figure" and block.figure == name]
