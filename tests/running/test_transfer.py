"""A network with published weights is trained for other classes, compressed and resumed; other steps refuse it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import slimcnn
from command_line import call
from published import TIMM, empty_caches, put_timm
from slimcnn.datasets import Normalization
from slimcnn.errors import ModelError, RecipeError, RunError
from slimcnn.running import normalization, recipe_from, run
from slimcnn.running.loading import load_with_data
from slimcnn.running.recipe import steps_from_line
from slimcnn.running.settings import Data, Network
from slimcnn.show import Show
from slimcnn.steps import Prune, Train

NETWORK = {"model": f"timm:{TIMM}", "weights": "pretrained"}


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    empty_caches(tmp_path / "caches", monkeypatch)
    return put_timm(tmp_path / "caches")[1]


def recipe(folder: Path, steps: str) -> Any:
    plain = {
        "network": NETWORK, "data": {"name": "digits", "limit": 40, "image_size": 32},
        "steps": steps_from_line(steps), "out": str(folder), "deterministic": True, "latency_seconds": 0.01,
    }  # fmt: skip
    return recipe_from(plain)


def test_a_run_replaces_the_head_says_so_resumes_and_leaves_a_checkpoint_that_needs_no_weights(
    cached: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    chain = recipe(tmp_path / "run", "train:epochs=2,batch_size=32 + prune:pruning_ratio=0.3")
    report = run(chain, show=Show(say=said.append)).report
    sentence = "The head fc (96 x 1,000) was replaced by a new layer (96 x 10) with random weights, seed 0"
    assert [line for line in said if sentence in line]
    stored = json.loads((tmp_path / "run/report.json").read_text())
    (blocks,) = [section["blocks"] for section in stored["sections"] if section["title"] == "Training"]
    assert sentence in blocks[0]["text"]
    assert "the network has 1000 outputs, and digits has 10 classes" in blocks[0]["text"]
    assert "In epoch 1 of 2, only fc was trained" in blocks[0]["text"]
    assert 'weights = "pretrained"' in (tmp_path / "run/recipe.toml").read_text()
    assert any("published with the weights" in note for note in report.notes)
    trained = json.loads((tmp_path / "run/1-train/done.json").read_text())
    assert set(trained["facts"]) == {"trained", "reference"}
    assert trained["reference"] == trained["model"], "the transferred network is what later ones are compared with"

    said.clear()
    again = run(chain, show=Show(say=said.append)).report
    assert again.after == report.after
    assert any(line.startswith("already done: 1-train, 2-prune") for line in said)

    weights = load_file(cached)
    cached.unlink()
    small = slimcnn.load(tmp_path / "run/compressed.safetensors")
    assert small.fc.out_features == 10
    assert (
        load_with_data(
            Network(weights=str(tmp_path / "run/compressed.safetensors")), Data(name="digits", limit=40, image_size=32)
        ).other_classes
        == ""
    )
    save_file({name: tensor + 1 for name, tensor in weights.items()}, cached)
    with pytest.raises(RunError, match="holds another run"):
        run(chain)


def test_an_interrupted_training_of_a_new_head_ends_with_the_same_bits(cached: Path, tmp_path: Path) -> None:
    steps = "train:epochs=2,batch_size=16,save_every_seconds=0,depth_decay=0.3"
    run(recipe(tmp_path / "whole", steps))

    class Stopped(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("  epoch 1/2"):
            raise Stopped

    with pytest.raises(Stopped):
        run(recipe(tmp_path / "parts", steps), show=Show(say=stop))
    run(recipe(tmp_path / "parts", steps))
    files = [(tmp_path / name / "compressed.safetensors").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]


def test_the_published_size_and_normalization_are_used_for_all_data(cached: Path) -> None:
    found = load_with_data(
        Network(**NETWORK),
        Data(name="digits", limit=10),
        other_classes=True,  # type: ignore[arg-type]
    )
    assert found.data.shape == (1, 160, 160)
    assert found.data.normalization == Normalization((0.5,), (0.5,))
    assert found.normalization == "published with the weights"


def test_gray_images_get_the_mean_of_the_published_normalization_over_its_channels() -> None:
    found = normalization._published("timm:resnet18", 1)
    assert found is not None
    assert found.mean == pytest.approx([(0.485 + 0.456 + 0.406) / 3])
    assert found.std == pytest.approx([(0.229 + 0.224 + 0.225) / 3])
    assert normalization._published("timm:resnet18", 4) is None


@pytest.mark.parametrize("steps", ["prune:macs=0.5", "recalibrate + train", "distill:epochs=1"])
def test_every_step_but_train_refuses_a_network_for_other_classes(cached: Path, tmp_path: Path, steps: str) -> None:
    with pytest.raises(RecipeError) as caught:
        run(recipe(tmp_path / "run", steps))
    first = steps.partition(":")[0].partition(" ")[0]
    assert str(caught.value) == (
        f"step 1, {first}: the network's head is for other classes: put train in front, which replaces it "
        "(--pretrain N); the network has 1000 outputs, and digits has 10 classes"
    )
    assert not (tmp_path / "run/run.json").exists()


def test_looking_at_other_classes_is_refused(cached: Path) -> None:
    with pytest.raises(ModelError, match="has 1000 outputs, and digits has 10 classes: put the step train in front"):
        load_with_data(Network(**NETWORK), Data(name="digits", limit=10, image_size=32))  # type: ignore[arg-type]


def test_a_rewrite_of_published_weights_is_a_step(cached: Path) -> None:
    with pytest.raises(RecipeError, match="leave --rewrite out, and add the step rewrite"):
        load_with_data(Network(**NETWORK, rewrite="feature_reuse"), Data(name="digits", limit=10, image_size=32))  # type: ignore[arg-type]


def test_compress_with_epochs_puts_train_in_front(
    cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"compress --model timm:{TIMM} --weights pretrained --data digits --limit 40 --image-size 32 --to none"
    line += f" --pruning-ratio 0.3 --recover train --out {tmp_path / 'run'} --set latency_seconds=0.01"
    code, _, error = call(line, capsys, monkeypatch)
    assert (code, "put train in front" in error) == (2, True)
    code, _, error = call(f"{line} --epochs 1", capsys, monkeypatch)
    assert code == 0, error
    steps = slimcnn.running.read_recipe(tmp_path / "run/recipe.toml").steps
    assert [step.name for step in steps] == ["train", "prune", "train"]


def test_a_weights_file_for_other_classes_is_transferred_too(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file(slimcnn.build("resnet8", in_channels=1, num_classes=17).state_dict(), path)
    found = load_with_data(
        Network(model="resnet8", weights=str(path)), Data(name="digits", limit=10), other_classes=True
    )
    assert found.other_classes == "the network has 17 outputs, and digits has 10 classes"
    assert found.model.architecture["arguments"]["num_classes"] == 17


def test_from_python_a_network_for_other_classes_is_trained_and_the_users_stays(tmp_path: Path) -> None:
    data = slimcnn.load_dataset("digits").limit(40)
    net = slimcnn.build("resnet8", in_channels=1, num_classes=3)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    train = Train(epochs=1, layout="nchw", precision="32")
    result = slimcnn.chain(net, data, [train], latency_seconds=0.01, show=slimcnn.show.SILENT)
    assert result.model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    with pytest.raises(RecipeError, match="put train in front"):
        slimcnn.chain(net, data, [Prune(macs=0.5)], show=slimcnn.show.SILENT)
    with pytest.raises(RecipeError, match="put train in front"):
        slimcnn.chain(net, data, [Prune(macs=0.5), train], show=slimcnn.show.SILENT)


def test_a_checkpoint_reads_a_folder_of_images_in_the_size_that_it_was_trained_with(tmp_path: Path) -> None:
    for kind in ("dark", "light"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(20):
            image = Image.new("RGB", (24, 20), (number, 9 * number, 40))
            image.save(tmp_path / "photos" / kind / f"{number}.png")
    net = slimcnn.build("resnet8", num_classes=2, in_channels=3)
    path = slimcnn.save(net, tmp_path / "net.safetensors", information={"input": [3, 16, 16]})
    found = load_with_data(Network(weights=str(path)), Data(name=str(tmp_path / "photos")))
    assert found.data.shape == (3, 16, 16)
