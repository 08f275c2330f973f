"""The step export, the files at the top of a run's folder, and the command that exports a run or a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import slimcnn
from command_line import call
from slimcnn.errors import ExportError, RunError
from slimcnn.exporting import read_parity, source_digest
from slimcnn.manifest import differences, read_manifest
from slimcnn.running import recipe_from, run
from slimcnn.running.opening import open_run

QUICK = {"deterministic": True, "latency_seconds": 0.01, "data": {"name": "digits", "limit": 100}}
PRUNE = {"step": "prune", "scope": "local", "batches": 1}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return slimcnn.save(slimcnn.build("resnet8"), tmp_path_factory.mktemp("weights") / "net.safetensors")


def run_of(weights: Path, out: Path, *steps: dict[str, Any]) -> Any:
    return run(recipe_from(QUICK | {"network": {"weights": str(weights)}, "steps": list(steps), "out": str(out)}))


@pytest.fixture(scope="module")
def finished(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "r"
    run_of(weights, out, PRUNE, {"step": "export", "to": "torchscript", "images": 8})
    return out


def test_files_of_the_final_network_lie_at_the_top_of_the_folder_and_in_the_report(finished: Path) -> None:
    known = read_parity(finished)["torchscript"]
    assert (known["status"], known["images"], known["agreement"]) == ("equal", 8, 100.0)
    assert known["source"] == source_digest(slimcnn.load(finished / "compressed.safetensors"))
    assert known["facts"]["compared_on"] == "digits, test"
    assert (finished / "model.torchscript").samefile(finished / "2-export" / "model.torchscript")
    report = json.loads((finished / "report.json").read_text())
    (section,) = [one for one in report["sections"] if one["title"] == "Exported files"]
    assert section["blocks"][0]["rows"][0][:3] == ["torchscript", "PyTorch", "model.torchscript"]


def test_files_of_a_network_that_changed_again_stay_in_their_steps_folder(finished: Path, weights: Path) -> None:
    export = {"step": "export", "to": ["torchscript"], "images": 8}
    run_of(weights, finished, PRUNE, export, {"step": "recalibrate", "images": 64})
    assert not read_parity(finished)
    assert not (finished / "model.torchscript").exists()
    assert (finished / "old" / "model.torchscript").exists()
    assert (finished / "2-export" / "model.torchscript").exists()
    run_of(weights, finished, PRUNE, export)
    assert (finished / "model.torchscript").exists()


def test_a_missing_package_is_refused_before_anything_runs_unless_the_export_is_optional(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slimcnn.exporting import formats

    monkeypatch.setattr(formats["onnx"].value, "packages", ("no_such_package",))
    train = {"step": "train", "epochs": 1}
    with pytest.raises(ExportError, match=r"no_such_package: pip install 'slimcnn\[export\]'"):
        run_of(weights, tmp_path / "a", train, {"step": "export"})
    assert not (tmp_path / "a" / "1-train").exists()
    found = run_of(weights, tmp_path / "b", {"step": "export", "optional": True})
    assert "no_such_package" in json.dumps([section.model_dump() for section in found.report.sections])
    assert not (tmp_path / "b" / "parity.json").exists()


def test_a_run_is_opened_with_its_network_and_images(finished: Path, tmp_path: Path) -> None:
    state = open_run(finished)
    assert source_digest(state.model) == source_digest(slimcnn.load(finished / "compressed.safetensors"))
    assert (len(state.data.test), state.data.name) == (100, "digits")
    with pytest.raises(RunError, match="is not a run folder"):
        open_run(tmp_path)


@pytest.mark.slow
def test_the_command_exports_a_run_into_its_folder(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = call(f"export {finished} --to onnx --images 4 --json", capsys, monkeypatch)
    assert code == 0, err
    assert json.loads(out)["onnx"]["images"] == 4
    assert set(read_parity(finished)) == {"onnx", "torchscript"}
    assert (finished / "model.onnx").exists()
    assert not differences(finished), "the manifest knows the new file"
    assert "model.onnx" in read_manifest(finished).files


@pytest.mark.slow
def test_the_command_exports_a_checkpoint_on_the_images_it_names(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = f"export {finished / 'compressed.safetensors'} --to torchscript --images 4 --out {tmp_path / 'files'}"
    code, out, err = call(command, capsys, monkeypatch)
    assert code == 0, err
    assert "model.torchscript" in out
    known = read_parity(tmp_path / "files")["torchscript"]
    assert known["facts"]["compared_on"] == "digits, test"
    assert known["facts"]["classes"] == [str(digit) for digit in range(10)]
    code, _, err = call(f"{command.replace('compressed', 'original')}", capsys, monkeypatch)
    assert code == 2
    assert "holds an export of another network" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("", "nothing to export: pass a run folder"),
        ("--model resnet8 --to onxn", "did you mean 'onnx'"),
        ("--model resnet8 --to ncnn --dynamic-size", "does not support images of any size"),
        ("--model resnet8 --bake-normalization", "bake_normalization needs a normalization"),
        ("nowhere", "nowhere"),
    ],
)
def test_mistakes_are_told_in_one_line(
    options: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call(f"export {options} --out {tmp_path / 'x'}", capsys, monkeypatch)
    assert code == 2
    assert said in err
    assert "\n" not in err.strip()
    assert not (tmp_path / "x").exists()
