"""Files that earlier versions wrote are read, and mean what they meant (docs/reference/policy.md)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import slimcnn
from command_line import call
from slimcnn.pruning import Plan
from slimcnn.reporting import read_report
from slimcnn.reporting.figures.training import TrainingCurves
from slimcnn.running.recipe import read_recipe
from slimcnn.studying.points import points_of
from slimcnn.studying.settings import parse_study

RELEASED = sorted(path for path in (Path(__file__).parent / "released").iterdir() if path.is_dir())


@pytest.fixture(params=RELEASED, ids=lambda path: path.name)
def files(request: pytest.FixtureRequest) -> Path:
    return Path(str(request.param))


def test_a_checkpoint_computes_what_it_computed(files: Path) -> None:
    model = slimcnn.load(files / "compressed.safetensors").eval()
    expected = torch.tensor(json.loads((files / "outputs.json").read_text()))
    with torch.inference_mode():
        found = model(torch.linspace(-1, 1, 64).view(1, 1, 8, 8))[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_plan_cuts_what_it_cut(files: Path) -> None:
    net = slimcnn.build("resnet8")
    graph = slimcnn.trace(net, torch.zeros(1, 1, 8, 8))
    small = slimcnn.prune(net, graph, Plan.load(files / "plan.json", graph))
    stored = slimcnn.load(files / "compressed.safetensors")
    assert [tuple(p.shape) for p in small.parameters()] == [tuple(p.shape) for p in stored.parameters()]


def test_a_recipe_means_the_same_steps(files: Path) -> None:
    recipe = read_recipe(files / "recipe.toml")
    assert [step.name for step in recipe.steps] == ["train", "prune", "least_squares", "export"]


def test_a_report_is_printed(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_report(files / "report.json").after.macs == 372_210
    (tmp_path / "report.json").write_bytes((files / "report.json").read_bytes())
    code, out, error = call(f"report {tmp_path}", capsys, monkeypatch)
    assert code == 0, error
    assert "The cut is exact" in out
    assert (tmp_path / "report.html").exists()


def test_the_metric_of_a_report_is_what_was_called_top1(files: Path) -> None:
    raw, found = json.loads((files / "report.json").read_text()), read_report(files / "report.json")
    assert found.reference_metric == raw["reference_top1"]
    assert [step.metric for step in found.steps] == [step["top1"] for step in raw["steps"]]
    (figure,) = [b for section in found.sections for b in section.blocks if getattr(b, "figure", "") == "training"]
    drawn = TrainingCurves.model_validate(figure.data).epochs
    assert [epoch.validation_metric for epoch in drawn] == [epoch["validation_top1"] for epoch in figure.data["epochs"]]


def test_a_study_is_valid(files: Path) -> None:
    study = parse_study((files / "study.toml").read_text(encoding="utf-8"))
    assert len(points_of(study)) == 12
