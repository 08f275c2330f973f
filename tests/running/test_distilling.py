"""Distilling compares the features that the last layer reads wherever it can, and refuses to where it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

import slimcnn
from slimcnn.errors import RecipeError
from slimcnn.running import recipe_from, run
from slimcnn.running.recipe import steps_from_line
from slimcnn.show import Show
from slimcnn.steps import Distill, distill

CUT = "prune:macs=0.6,scope=local,batches=1"
SHORT = "distill:epochs=1,learning_rate=0.01"
FEATURES = "0.3 features (the output of layer3, error in percent of the variance)"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return slimcnn.save(slimcnn.build("resnet8", in_channels=1), tmp_path_factory.mktemp("net") / "net.safetensors")


def told(line: str, weights: Path, out: Path, **settings: Any) -> str:
    """Run the steps, the last one with more settings, and return what the report says about the distillation."""
    *before, last = steps_from_line(line)
    plain = {
        "network": {"weights": str(weights)}, "data": {"name": "digits", "limit": 60}, "out": str(out),
        "steps": [*before, last | settings], "latency_seconds": 0.01, "deterministic": True,
    }  # fmt: skip
    report = run(recipe_from(plain), show=Show()).report
    texts = [block.text for one in report.sections for block in one.blocks if block.kind == "text"]
    (found,) = [text for text in texts if "of distillation, loss" in text]
    return found


@pytest.mark.parametrize(
    "before",
    [
        CUT,
        f"{CUT} + least_squares:images=50",
        f"{CUT} + recalibrate + tune:images=20,epochs=1,learning_rate=0.01,frozen_batch_norm=true",
        f"{CUT} + train:epochs=1,learning_rate=0.01",
        f"{CUT} + prune:macs=0.5,scope=local,batches=1",
        f"rewrite + {CUT}",
        "sparsify:epochs=1,relations=mean,learning_rate=0.01 + prune:criterion=gfr,scope=global,macs=0.6",
    ],
)
def test_where_the_networks_channels_are_the_references_its_features_are_compared_too(
    before: str, weights: Path, tmp_path: Path
) -> None:
    said = told(f"{before} + {SHORT}", weights, tmp_path / "run")
    assert f"loss 0.1 cross_entropy + 0.9 kd + {FEATURES}" in said


@pytest.mark.parametrize("settings", [{"loss": "kd"}, {"teacher_cache": 1}, {"student": {"model": "resnet8"}}])
def test_elsewhere_only_the_answers_are(settings: dict[str, Any], weights: Path, tmp_path: Path) -> None:
    said = told(f"{CUT} + {SHORT}", weights, tmp_path / "run", **settings)
    assert "loss 0.1 cross_entropy + 0.9 kd, learning rate" in said


def test_a_rewrite_with_random_layers_has_channels_of_its_own_even_when_trained(weights: Path, tmp_path: Path) -> None:
    said = told(f"rewrite:init=random + train:epochs=1,learning_rate=0.01 + {SHORT}", weights, tmp_path / "run")
    assert "loss 0.1 cross_entropy + 0.9 kd, learning rate" in said


@pytest.mark.parametrize("loss", ["kd+features", "kd+fitnet:layer=layer3"])
def test_stored_answers_of_a_teacher_are_refused_for_losses_that_compare_features(loss: str) -> None:
    name = loss.partition("+")[2].partition(":")[0]
    with pytest.raises(ValidationError, match=f"teacher_cache stores answers, which are not enough for {name}: leave"):
        Distill(epochs=1, loss=loss, teacher_cache=1)


def test_another_teachers_features_are_not_compared(weights: Path, tmp_path: Path) -> None:
    other = {"with_reference": False, "teachers": [{"weights": str(weights)}]}
    said = told(f"{CUT} + {SHORT}", weights, tmp_path / "run", **other)
    assert "loss 0.1 cross_entropy + 0.9 kd, learning rate" in said


def test_asked_for_where_they_cannot_be_compared_features_are_refused(weights: Path, tmp_path: Path) -> None:
    other = {"step": "distill", "epochs": 1, "student": {"model": "resnet8"}}
    plain = {
        "network": {"weights": str(weights)},
        "data": {"name": "digits", "limit": 60},
        "out": str(tmp_path / "run"),
    }
    steps = [other, *steps_from_line(f"{SHORT},loss=kd+features")]
    with pytest.raises(RecipeError, match="cannot be compared with the reference's: leave features out"):
        run(recipe_from(plain | {"steps": steps, "latency_seconds": 0.01}), show=Show())
    for setting in ({"student": {"model": "resnet8"}}, {"with_reference": False, "teachers": [{"model": "resnet8"}]}):
        with pytest.raises(ValueError, match="features are compared with those of the reference"):
            Distill(loss="kd+features", **setting)


@pytest.mark.parametrize(
    ("settings", "clipped"),
    [({}, 10.0), ({"loss": "kd"}, None), ({"loss": "kd+0.1*features"}, 10.0), ({"clip_norm": 1.0}, 1.0)],
)
def test_gradients_are_clipped_where_features_are_compared_unless_the_user_says_how(
    settings: dict[str, Any], clipped: float | None, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    learn = distill.learn

    def noticed(*args: Any, **more: Any) -> Any:
        found.append(args[2].clip_norm)
        return learn(*args, **more)

    monkeypatch.setattr(distill, "learn", noticed)
    told(f"{CUT} + {SHORT}", weights, tmp_path / "run", **settings)
    assert found == [clipped]
