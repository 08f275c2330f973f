"""The normalization that weights expect is found where nothing says it, also on images that the network knows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import slimcnn
from slimcnn.datasets import Normalization, batches
from slimcnn.errors import CheckpointError
from slimcnn.running import recipe_from, run
from slimcnn.running.loading import load_with_data
from slimcnn.running.normalization import adapt, stored_in
from slimcnn.running.settings import Data, Network, Normalizing
from slimcnn.show import Show
from slimcnn.steps import distill

TRAINED_WITH = Normalization((0.5,), (0.5,))


@pytest.fixture(scope="module")
def unstated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that do not say which normalization they were trained with, on the validation images too."""
    data = slimcnn.load_dataset("digits").limit(60)
    torch.manual_seed(0)
    net = slimcnn.build("resnet8", in_channels=1)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(60):
        for x, y in batches(data.validation, 60, normalization=TRAINED_WITH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    path = tmp_path_factory.mktemp("unstated") / "net.safetensors"
    save_file(net.state_dict(), path)
    return path


def test_of_several_that_reach_the_same_top1_the_likelier_is_taken(unstated: Path) -> None:
    data = slimcnn.load_dataset("digits").limit(60)
    network = Network(model="resnet8", weights=str(unstated))
    found = load_with_data(network, Data(name="digits", limit=60))
    top1 = {
        name: slimcnn.evaluate(found.model, data.validation, normalization).top1
        for name, normalization in (("trained", TRAINED_WITH), ("dataset", data.normalization))
    }
    assert top1["trained"] == top1["dataset"] == 100, "top-1 cannot tell them apart"
    assert found.data.normalization == TRAINED_WITH
    assert found.normalization.startswith("-1 to 1, found by cross entropy")


def test_a_teacher_that_states_no_normalization_gets_the_one_that_fits_it(unstated: Path) -> None:
    data = slimcnn.load_dataset("digits").limit(60)
    said: list[str] = []
    network = Network(model="resnet8", weights=str(unstated))
    teacher = distill._teacher(network, data, Show(say=said.append))
    plain, pixels = load_with_data(network, Data(name="digits", limit=60)).model, data.test.pixels[:8]
    with torch.no_grad():
        assert torch.allclose(teacher(data.normalization(pixels)), plain(TRAINED_WITH(pixels)), atol=1e-4)
    assert [line for line in said if "gets images with its own normalization, mean 0.5 and std 0.5, -1 to 1" in line]
    assert not distill._teacher(Network(model="resnet8"), data)._forward_pre_hooks, "nothing to expect without weights"


OWN = Normalization((0.25,), (0.125,))


def checkpoint(folder: Path, normalization: object = None) -> Path:
    torch.manual_seed(0)
    stated = {"mean": list(OWN.mean), "std": list(OWN.std)} if normalization is None else normalization
    net = slimcnn.build("resnet8", in_channels=1)
    return slimcnn.save(net, folder / "own.safetensors", information={"normalization": stated})


@pytest.mark.parametrize("asked", ["auto", Normalizing(mean=(0.5,), std=(0.5,))])
@pytest.mark.parametrize("model", ["", "resnet8"])
def test_the_normalization_of_a_checkpoint_always_wins(tmp_path: Path, model: str, asked: str | Normalizing) -> None:
    network = Network(model=model, weights=str(checkpoint(tmp_path)))
    found = load_with_data(network, Data(name="digits", limit=60, normalization=asked))  # type: ignore[arg-type]
    assert found.data.normalization == OWN
    ignored = "" if asked == "auto" else "; that of the recipe is not used"
    assert found.normalization == f"stored with the weights{ignored}"


@pytest.mark.parametrize("stated", [{"mean": [0.5]}, {"mean": "?", "std": [1]}, {"mean": [0.5], "std": [0]}, 7])
def test_a_damaged_normalization_in_a_checkpoint_is_one_line(tmp_path: Path, stated: object) -> None:
    network = Network(weights=str(checkpoint(tmp_path, stated)))
    with pytest.raises(CheckpointError, match=r"a checkpoint states the normalization .*: it needs mean and std"):
        load_with_data(network, Data(name="digits", limit=60))


def test_a_teacher_with_a_normalization_of_its_own_sees_images_as_it_was_trained(tmp_path: Path) -> None:
    data = slimcnn.load_dataset("digits").limit(60)
    teacher = distill._teacher(Network(weights=str(checkpoint(tmp_path))), data)
    plain = slimcnn.load(tmp_path / "own.safetensors")
    pixels = data.test.pixels[:8]
    with torch.no_grad():
        assert torch.allclose(teacher(data.normalization(pixels)), plain(OWN(pixels)), atol=1e-4)
        assert not torch.allclose(plain(data.normalization(pixels)), plain(OWN(pixels)), atol=1e-2)
    assert adapt(plain, None, OWN) is plain
    assert not plain._forward_pre_hooks


def test_the_report_states_the_normalization_in_one_line_and_a_student_of_another_is_named(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "other").mkdir()
    student = {"weights": str(checkpoint(tmp_path / "other", {"mean": [0.5], "std": [0.5]}))}
    plain = {
        "network": {"weights": str(checkpoint(tmp_path))}, "data": {"name": "digits", "limit": 60},
        "steps": [{"step": "distill", "epochs": 1, "student": student}], "out": str(tmp_path / "run"),
        "deterministic": True, "latency_seconds": 0.01,
    }  # fmt: skip
    report = run(recipe_from(plain), show=Show(say=said.append)).report
    notes = [note for note in report.notes if note.startswith("Normalization")]
    assert notes == ["Normalization: mean 0.25 and std 0.125, stored with the weights."]
    assert stored_in(slimcnn.checkpoints.read_information(tmp_path / "run" / "compressed.safetensors")) == OWN
    (warning,) = [line for line in said if line.startswith("WARNING: the student's")]
    assert "expects mean 0.5 and std 0.5, but the student is trained with mean 0.25 and std 0.125" in warning
    assert warning.endswith("give the reference in teachers, with with_reference=false")
