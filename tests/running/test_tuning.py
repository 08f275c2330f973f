"""Tuning imitates the reference without a label, in the time given, and never goes farther away from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import slimcnn
from slimcnn.datasets import Dataset, Images
from slimcnn.errors import RecipeError, RunError, SlimcnnError, UnknownName
from slimcnn.graph.removal import kept_positions
from slimcnn.objectives import watch
from slimcnn.running import Step, imitation, recipe_from, run
from slimcnn.running.order import facts_before
from slimcnn.running.recipe import steps_from_line
from slimcnn.show import Show
from slimcnn.steps import LeastSquares, Prune, Tune, tune
from slimcnn.steps.tune import ANSWERS

PRUNED = "prune:macs=0.5,scope=local,batches=1 + "


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return slimcnn.load_dataset("digits").limit(300)


@pytest.fixture(scope="module")
def net(digits: Dataset) -> torch.nn.Module:
    torch.manual_seed(0)
    net = slimcnn.build("resnet8", in_channels=1)
    for _ in slimcnn.fit(
        net, digits, training=slimcnn.Training(epochs=4, layout="nchw", precision="32", batch_size=32)
    ):
        pass
    return net


def unlabeled(images: Images) -> Images:
    return Images(images.pixels, torch.zeros_like(images.labels))


def tuned(
    net: torch.nn.Module, data: Dataset, out: Path, before: Sequence[Step] = (), **settings: object
) -> tuple[torch.nn.Module, slimcnn.Report]:
    tune = Tune(**{"images": 300, "epochs": 3, "batch_size": 32, "learning_rate": 0.02} | settings)  # type: ignore[arg-type]
    return slimcnn.chain(
        net, data, [Prune(macs=0.5, scope="local", criterion="l2"), *before, tune], out=out,
        deterministic=True, latency_seconds=0.01,
    )  # fmt: skip


def test_no_label_is_read(net: torch.nn.Module, digits: Dataset, tmp_path: Path) -> None:
    blind = replace(digits, train=unlabeled(digits.train), validation=unlabeled(digits.validation))
    found, _ = tuned(net, digits, tmp_path / "with", [LeastSquares(images=100)], images=100)
    without, _ = tuned(net, blind, tmp_path / "without", [LeastSquares(images=100)], images=100)
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, without.state_dict()[name]), name


def test_the_pruned_network_agrees_more_often_with_the_reference(
    net: torch.nn.Module, digits: Dataset, tmp_path: Path
) -> None:
    _, report = tuned(net, digits, tmp_path / "run")
    (figure,) = [b for s in report.sections for b in s.blocks if b.kind == "figure" and b.figure == "training"]
    (text,) = [
        b.text for s in report.sections for b in s.blocks if b.kind == "text" and b.text.startswith("Kept epoch")
    ]
    assert figure.data["kept"] > 0
    assert "validation error of the features" in text
    assert report.steps[-1].metric >= report.steps[-2].metric - 1


def distance_in(report: slimcnn.Report) -> float:
    (figure,) = [b for s in report.sections for b in s.blocks if b.kind == "figure" and b.figure == "training"]
    return min(epoch["validation_metric"] for epoch in figure.data["epochs"])


def test_the_epoch_is_kept_whose_features_are_nearest_on_held_out_images(
    net: torch.nn.Module, digits: Dataset, tmp_path: Path
) -> None:
    found, report = tuned(net, digits, tmp_path / "run")
    graph = slimcnn.trace(net, torch.zeros(1, *digits.shape))
    plan = slimcnn.Plan.load(next(tmp_path.glob("run/*-prune/plan.json")), graph)
    kept = kept_positions(graph, plan.by_index(graph))["linear.weight"][1]
    x = digits.normalization(digits.validation.pixels)
    maps = []
    for one in (found, net):
        with torch.no_grad(), watch(one.eval(), ["layer3"]) as seen:
            one(x)
        maps.append(seen["layer3"])
    texts = [b.text for s in report.sections for b in s.blocks if b.kind == "text"]
    assert any("the output of layer3) in percent of their variance" in text for text in texts)
    train = digits.normalization(digits.train.pixels)
    with torch.no_grad(), watch(net, ["layer3"]) as seen:
        net(train)
    variance = seen["layer3"][:, kept].var(dim=(0, 2, 3)).mean()
    error = 100 * (maps[0] - maps[1][:, kept]).square().mean() / variance
    assert distance_in(report) == pytest.approx(float(error), rel=0.1)  # the variance is that of 64 images


def test_with_answers_the_epoch_is_kept_whose_softened_answers_are_nearest(
    net: torch.nn.Module, digits: Dataset, tmp_path: Path
) -> None:
    """Which class is first says nothing where all answers agree, as on images that the reference was trained on."""
    found, report = tuned(net, digits, tmp_path / "run", loss=ANSWERS)
    x = digits.normalization(digits.validation.pixels)
    with torch.no_grad():
        log, wanted = (F.log_softmax(one.eval()(x) / 4, 1) for one in (found, net))
    distance = 0.9 * 16 * F.kl_div(log, wanted, log_target=True, reduction="batchmean").item()  # the weight of kd
    assert distance_in(report) == pytest.approx(distance, rel=1e-4)


def test_answers_are_compared_if_the_networks_channels_are_not_the_references(
    net: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = slimcnn.save(net, tmp_path / "net.safetensors")
    plain = {
        "network": {"weights": str(weights)}, "data": {"name": "digits", "limit": 100}, "out": str(tmp_path / "run"),
        "steps": [
            {"step": "distill", "student": {"model": "resnet8"}, "epochs": 1},
            *steps_from_line("tune:images=64,epochs=1,learning_rate=0.01,frozen_batch_norm=false"),
        ],
        "latency_seconds": 0.01, "deterministic": True,
    }  # fmt: skip
    said: list[str] = []
    clipped: list[float | None] = []
    learn = tune.learn

    def noticed(*args: Any, **more: Any) -> Any:
        clipped.append(args[2].clip_norm)
        return learn(*args, **more)

    monkeypatch.setattr(tune, "learn", noticed)
    run(recipe_from(plain), show=Show(say=said.append))
    assert any("features before the last layer cannot be compared" in line for line in said)
    assert clipped == [None]  # in tune; only the error of features has no bound


def test_a_rate_that_ruins_the_network_costs_nothing(net: torch.nn.Module, digits: Dataset, tmp_path: Path) -> None:
    _, report = tuned(net, digits, tmp_path / "run", learning_rate=5.0)
    assert report.steps[-1].metric == report.steps[-2].metric


def test_images_and_epochs_are_planned_once_by_the_measured_speed(
    net: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = slimcnn.save(net, tmp_path / "net.safetensors")
    plain = {
        "network": {"weights": str(weights)}, "data": {"name": "digits", "limit": 300}, "out": str(tmp_path / "run"),
        "steps": steps_from_line(PRUNED + "tune:minutes=0.1"), "latency_seconds": 0.01,
    }  # fmt: skip
    monkeypatch.setattr(Tune, "_speed", lambda *_: 100.0)  # 600 images in 6 seconds: 461 of training, 3 looks of 46
    said: list[str] = []
    run(recipe_from(plain), show=Show(say=said.append))
    place = tmp_path / "run" / "2-tune"
    assert json.loads((place / "tuning.json").read_text()) == {"images": 153, "epochs": 3}
    assert "tuning: 3 epochs on 153 images" in said
    (place / "done.json").unlink()
    monkeypatch.setattr(Tune, "_speed", lambda *_: 1.0)
    said.clear()
    run(recipe_from(plain), show=Show(say=said.append))
    assert "tuning: 3 epochs on 153 images" in said
    (place / "done.json").unlink()
    (place / "tuning.json").write_text('{"images": "many"}')
    with pytest.raises(RunError, match="delete it to plan the tuning again"):
        run(recipe_from(plain), show=Show(say=said.append))


def test_nothing_depends_on_measured_time_in_a_deterministic_run(
    net: torch.nn.Module, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tune, "_speed", lambda *_: pytest.fail("time was measured"))
    tuned(net, digits.limit(50), tmp_path / "run", images=None, epochs=1)


def test_an_untrained_network_and_an_unknown_loss_are_refused_before_anything_runs() -> None:
    recipe = recipe_from({"network": {"model": "resnet8"}, "steps": steps_from_line("tune")})
    with pytest.raises(RecipeError, match="there are no trained weights to tune"):
        facts_before(recipe.steps, frozenset())
    with pytest.raises(UnknownName, match="unknown loss 'kdd'"):
        run(recipe_from({"network": {"model": "resnet8"}, "steps": steps_from_line("train:epochs=1 + tune:loss=kdd"),
                         "data": {"name": "digits", "limit": 20}, "out": "/nowhere"}), show=Show())  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "said"),
    [("featurez", "did you mean 'features'"), ("1*kd+features:layer=x", "no option 'layer'")],
)
def test_a_misspelt_or_an_impossible_loss_is_refused_with_the_settings(loss: str, said: str) -> None:
    with pytest.raises(SlimcnnError, match=said):
        Tune(loss=loss)


def test_a_tuning_that_diverges_leaves_the_network_as_it_was_and_says_so_in_red(
    net: torch.nn.Module, digits: Dataset, tmp_path: Path
) -> None:
    _, report = tuned(net, digits, tmp_path / "run", learning_rate=1e30, batch_size=150)
    assert report.steps[-1].metric == report.steps[-2].metric
    (text,) = [
        b for s in report.sections for b in s.blocks if b.kind == "text" and b.text.startswith("Tuning diverged")
    ]
    assert text.tone == "bad"
    assert "the network is as it was before" in text.text


class Drifting(torch.nn.Sequential):
    """A convolution and a batch norm whose stored statistics are not those of the digits, as after other images."""

    def __init__(self) -> None:
        super().__init__(
            torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
            torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 10),
        )  # fmt: skip
        for norm in (self[1], self[4]):
            torch.nn.init.uniform_(norm.running_mean, -1, 1)
            torch.nn.init.uniform_(norm.running_var, 0.5, 4)


def test_batch_norms_keep_statistics_that_suit_the_reference_better_than_those_of_the_images(
    digits: Dataset, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    tuned(Drifting(), digits, tmp_path / "run", [LeastSquares(images=300)])
    (place,) = tmp_path.glob("run/*-tune/imitation.json")
    known = json.loads(place.read_text())
    updated, kept = (one["distance"] or float("inf") for one in known["tried"])  # it may diverge
    assert kept < updated
    assert known["way"]["frozen_batch_norm"]
    before, after = map(
        load_file, (tmp_path / "run" / "2-least_squares" / "model.safetensors", place.with_name("model.safetensors"))
    )
    assert all(torch.equal(before[name], after[name]) for name in before if "running_" in name)


def test_where_the_highest_rate_leads_away_in_a_few_steps_a_lower_one_is_taken(
    net: torch.nn.Module, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(model: torch.nn.Module, data: Dataset, training: slimcnn.Training, steps: int, *_: object) -> float:
        assert (len(data.train), steps) == (300, 3)
        return 0.9 if training.learning_rate > 0.001 else 0.5

    monkeypatch.setattr(imitation, "trial", look)
    _, report = tuned(net, digits, tmp_path / "run", learning_rate=None)
    known = json.loads(next(tmp_path.glob("run/*-tune/imitation.json")).read_text())
    rates = pytest.approx([0.0025, 0.0005, 0.000125])  # 32 images a step, not 128
    assert [one["learning_rate"] for one in known["tried"]] == rates
    assert known["way"] == {"learning_rate": pytest.approx(0.0005), "frozen_batch_norm": True, "distance": 0.5}
    (text,) = [b.text for s in report.sections for b in s.blocks if b.kind == "text" and "of 3 ways" in b.text]
    assert "after 3 steps each (distances 0.9, 0.5, 0.5)" in text


@pytest.mark.parametrize("frozen", [False, True])
def test_a_way_that_is_asked_for_is_not_chosen(
    frozen: bool, net: torch.nn.Module, digits: Dataset, tmp_path: Path
) -> None:
    _, report = tuned(net, digits, tmp_path / "run", frozen_batch_norm=frozen, learning_rate=0.002)
    assert not list(tmp_path.glob("run/*-tune/imitation.json"))
    (text,) = [b.text for s in report.sections for b in s.blocks if b.kind == "text" and "batch norms" in b.text]
    assert f"batch norms {'keep their statistics' if frozen else 'update'}" in text
