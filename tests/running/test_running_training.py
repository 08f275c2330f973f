"""A step that trains does not destroy what it got, says what it kept, and looks for a learning rate that is safe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import slimcnn
from slimcnn.datasets import Dataset
from slimcnn.errors import RecipeError, RunError, TargetError
from slimcnn.layers.relating import relating_of
from slimcnn.running import rates, recipe_from, run
from slimcnn.running.recipe import steps_from_line
from slimcnn.show import Show
from slimcnn.steps import Prune, Sparsify
from slimcnn.training import Training

RUINOUS = "learning_rate=3,momentum=0,seed=1"


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return slimcnn.load_dataset("digits").limit(200)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    torch.manual_seed(0)
    net = slimcnn.build("resnet8", in_channels=1)
    settings = slimcnn.Training(epochs=4, layout="nchw", precision="32", batch_size=32)
    for _ in slimcnn.fit(net, digits, training=settings):
        pass
    return slimcnn.save(net, tmp_path_factory.mktemp("trained") / "net.safetensors")


def go(out: Path, line: str, weights: Path | None = None, **more: Any) -> tuple[slimcnn.Report, list[str]]:
    said: list[str] = []
    plain = {
        "network": {"weights": str(weights)} if weights else {"model": "resnet8"},
        "data": {"name": "digits", "limit": 200}, "steps": steps_from_line(line), "out": str(out),
        "deterministic": True, "latency_seconds": 0.01,
    }  # fmt: skip
    return run(recipe_from(plain | more), show=Show(say=said.append)).report, said


def texts(report: slimcnn.Report) -> list[tuple[str, str]]:
    return [(b.text, b.tone) for section in report.sections for b in section.blocks if b.kind == "text"]


@pytest.mark.parametrize("step", ["train", "distill"])
def test_a_rate_that_ruins_a_trained_network_costs_nothing_and_is_said(
    step: str, tmp_path: Path, trained: Path
) -> None:
    report, said = go(tmp_path / "run", f"{step}:epochs=2,{RUINOUS}", trained)
    assert report.steps[0].metric == report.reference_metric
    assert report.after.top1 == report.before.top1
    assert report.warnings == ()
    assert [text for text in said if text.startswith("  kept the start, validation top-1 ")]
    (tone,) = [tone for text, tone in texts(report) if "no epoch was better; try a lower learning rate" in text]
    assert tone == "bad"
    (figure,) = [b for s in report.sections for b in s.blocks if b.kind == "figure" and b.figure == "training"]
    assert figure.data["kept"] == 0


def test_the_page_and_the_terminal_say_which_epoch_was_kept(tmp_path: Path) -> None:
    report, said = go(tmp_path / "run", "train:epochs=2")
    (line,) = [text for text in said if text.startswith("  kept epoch ")]
    assert " of 2, validation top-1 " in line
    assert any(text.startswith("Kept epoch ") and tone == "plain" for text, tone in texts(report))


def test_sparsity_training_keeps_the_last_epoch_because_its_scales_are_the_smallest(
    tmp_path: Path, trained: Path
) -> None:
    line = "sparsify:epochs=2,relations=none,strength=0.1,learning_rate=0.05"
    report, said = go(tmp_path / "run", line, trained)
    assert report.steps[0].metric < report.reference_metric
    assert [text for text in said if text.startswith("  kept epoch 2 of 2")]

    def scales(path: Path) -> float:
        norms = [module for module in slimcnn.load(path).modules() if hasattr(module, "running_mean")]
        return sum(float(norm.weight.detach().abs().sum()) for norm in norms)

    assert scales(tmp_path / "run/compressed.safetensors") < scales(tmp_path / "run/original.safetensors")
    with pytest.raises(ValueError, match="keep"):
        Sparsify(keep="best")


@pytest.mark.parametrize("batch", [16, 150])  # 150: two steps in all, fewer than annealing takes
def test_annealed_relations_end_as_mean_and_fold_into_an_exact_cut(batch: int, tmp_path: Path, trained: Path) -> None:
    line = (
        f"sparsify:epochs=1,batch_size={batch},relations=annealed,penalty=relative,polarization=0.1,learning_rate=0.01"
    )
    report, _ = go(tmp_path / "run", f"{line} + prune:criterion=gfr,scope=global,macs=0.7", trained)
    assert report.verdict is not None
    assert report.verdict.equal
    settled = relating_of(slimcnn.load(tmp_path / "run/1-sparsify/model.safetensors"))
    assert set(settled.values()) == {"mean"}
    assert not relating_of(slimcnn.load(tmp_path / "run/compressed.safetensors"))


@pytest.mark.parametrize("setting", [{"penalty": "product"}, {"polarization": 0.1}, {"equal_gates": False}])
def test_settings_of_relations_without_relations_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="relations is none"):
        Sparsify(relations="none", **setting)


def test_soft_pruning_keeps_the_last_epoch() -> None:
    for soft in ({"epochs": 2}, Training(epochs=2)):
        assert Prune(soft=soft).soft.keep == "last"
    assert Prune.model_validate(Prune(soft={"epochs": 2}).model_dump()).soft.keep == "last"
    for soft in ({"keep": "best"}, Training(keep="best")):
        with pytest.raises(ValueError, match="keeps the last epoch"):
            Prune(soft=soft)


LOOK = "train:epochs=3,batch_size=16"


def test_a_trained_network_is_first_looked_at_with_three_rates_and_the_choice_is_told_and_kept(
    tmp_path: Path, trained: Path
) -> None:
    report, said = go(tmp_path / "run", LOOK, trained)
    choice = json.loads((tmp_path / "run/1-train" / rates.CHOICE).read_text())
    assert [one["rate"] for one in choice["trials"]] == pytest.approx([0.001, 0.003, 0.01])
    assert 3 * choice["steps"] * 16 <= report.images["train"]
    (line,) = [text for text in said if text.startswith("  learning rate ")]
    assert f"chosen by validation top-1 after {choice['steps']} steps each" in line
    assert any(line.strip() in text for text, _ in texts(report))


def test_sparsity_training_of_a_trained_network_looks_too_with_the_strength_that_belongs_to_each_rate(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def noticed(*args: Any, **more: Any) -> Any:
        tried.append((more["training"].learning_rate, more["objective"].strength))
        return slimcnn.fit(*args, **more)

    monkeypatch.setattr(rates, "fit", noticed)
    report, said = go(tmp_path / "run", "sparsify:epochs=3,batch_size=16,relations=none", trained)
    assert [rate for rate, _ in tried] == pytest.approx([0.01, 0.03, 0.1])
    assert [rate * strength for rate, strength in tried] == pytest.approx([tried[0][0] * tried[0][1]] * 3)
    choice = json.loads((tmp_path / "run/1-sparsify" / rates.CHOICE).read_text())
    (line,) = [text for text in said if text.startswith("  learning rate ")]
    assert any(line.strip() in text for text, _ in texts(report))
    assert line.startswith(f"  learning rate {choice['rate']:g}, chosen")


@pytest.mark.parametrize(
    ("line", "trained_first"),
    [
        ("sparsify:epochs=3,batch_size=16,relations=none,learning_rate=0.05", True),
        ("sparsify:epochs=3,batch_size=16,relations=none", False),
        ("train:epochs=1,batch_size=16", True),  # as short as the look
        ("train:epochs=3,batch_size=16,learning_rate=0.01", True),  # the user knows
        (LOOK, False),  # nothing to destroy
        ("train:epochs=3,batch_size=200", True),  # one step an epoch: nothing to see
    ],
)
def test_there_is_no_look_where_it_would_cost_too_much_or_decide_nothing(
    line: str, trained_first: bool, tmp_path: Path, trained: Path
) -> None:
    go(tmp_path / "run", line, trained if trained_first else None)
    assert not list((tmp_path / "run").glob(f"*/{rates.CHOICE}"))


def test_a_rate_that_ruins_the_network_is_not_chosen(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "SHARES", (0.1, 1.0, 1e30))
    _, said = go(tmp_path / "run", LOOK, trained)
    (line,) = [text for text in said if text.startswith("  learning rate ")]
    assert "1e+28: diverged" in line
    assert json.loads((tmp_path / "run/1-train" / rates.CHOICE).read_text())["rate"] <= 0.01


@pytest.mark.parametrize("line", [LOOK, "distill:epochs=3,batch_size=16,loss=cross_entropy+fitnet:layer=layer2"])
def test_a_run_that_is_stopped_after_the_look_ends_with_the_same_bits(
    line: str, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(tmp_path / "calm", line, trained)

    def stop(text: str) -> None:
        if text.startswith("  learning rate "):
            raise InterruptedError

    plain = {
        "network": {"weights": str(trained)}, "data": {"name": "digits", "limit": 200},
        "steps": steps_from_line(line), "out": str(tmp_path / "stopped"), "deterministic": True,
        "latency_seconds": 0.01,
    }  # fmt: skip
    with pytest.raises(InterruptedError):
        run(recipe_from(plain), show=Show(say=stop))
    monkeypatch.setattr(rates, "trial", lambda *_: pytest.fail("looked again"))
    go(tmp_path / "stopped", line, trained)
    calm, stopped = (tmp_path / name / "compressed.safetensors" for name in ("calm", "stopped"))
    assert calm.read_bytes() == stopped.read_bytes()


def test_a_damaged_choice_is_one_line_that_says_what_to_do(tmp_path: Path, trained: Path) -> None:
    with pytest.raises(InterruptedError):
        run(
            recipe_from(
                {
                    "network": {"weights": str(trained)}, "data": {"name": "digits", "limit": 200},
                    "steps": steps_from_line(LOOK), "out": str(tmp_path / "run"), "deterministic": True,
                    "latency_seconds": 0.01,
                }
            ),
            show=Show(say=lambda text: (_ for _ in ()).throw(InterruptedError) if "chosen by" in text else None),
        )  # fmt: skip
    (tmp_path / "run/1-train" / rates.CHOICE).write_text("{")
    with pytest.raises(RunError, match="delete it to try the learning rates again") as caught:
        go(tmp_path / "run", LOOK, trained)
    assert "\n" not in str(caught.value)


def test_a_mended_command_goes_on_in_the_folder_of_a_run_that_failed_after_training(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(TargetError):
        go(out, "train:epochs=1 + prune:latency=0.000001ms,runtime=torch,batches=1")
    report, said = go(out, "train:epochs=1 + prune:macs=0.6,batches=1")
    assert "already done: 1-train" in said
    assert [step.name for step in report.steps] == ["train", "prune"]


def test_a_command_that_leaves_out_the_training_that_is_done_is_told_to_repeat_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(out, "train:epochs=1")
    with pytest.raises(RecipeError) as caught:
        go(out, "prune:macs=0.6,batches=1")
    assert "there is no trained network to prune" in str(caught.value)
    assert f"{out} holds a network that an earlier command trained: repeat its --pretrain 1" in str(caught.value)
    with pytest.raises(RecipeError) as caught:
        go(tmp_path / "other", "prune:macs=0.6,batches=1")
    assert "repeat" not in str(caught.value)


def test_weights_in_the_folder_of_the_run_are_not_to_be_deleted(tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(out, "train:epochs=1")
    with pytest.raises(RunError, match="holds another run") as caught:
        go(out, "prune:macs=0.6,batches=1", out / "1-train/model.safetensors")
    assert "delete" not in str(caught.value)
    assert "choose another --out for these weights, or repeat the earlier command's network and training" in str(
        caught.value
    )


@pytest.mark.parametrize("step", ["train", "distill"])
def test_a_step_trains_on_as_many_images_as_it_is_given(step: str, tmp_path: Path, trained: Path) -> None:
    _, said = go(tmp_path / "run", f"{step}:epochs=1,images=40,learning_rate=0.01", trained)
    assert any("1 epoch on 40 images" in line for line in said)


def test_distilling_by_softened_logits_alone_reads_no_labels(tmp_path: Path, trained: Path, digits: Dataset) -> None:
    net = slimcnn.load(trained)
    train = digits.train
    wrong = replace(digits, train=replace(train, labels=train.labels.flip(0)))
    step = slimcnn.steps.Distill(epochs=1, loss="0*cross_entropy+kd", learning_rate=0.01, keep="last")
    found = [
        slimcnn.chain(net, data, [step], out=tmp_path / str(number), deterministic=True, latency_seconds=0.01).model
        for number, data in enumerate((digits, wrong))
    ]
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in found), strict=True))
