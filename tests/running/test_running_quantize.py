"""The step quantize, and the command that quantizes a finished run or a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import slimcnn
from command_line import call
from slimcnn.errors import ExportError, RecipeError, UnknownName
from slimcnn.exporting import read_parity, source_digest
from slimcnn.manifest import differences, read_manifest
from slimcnn.running import recipe_from, run

QUICK = {"deterministic": True, "latency_seconds": 0.01, "data": {"name": "digits", "limit": 100}}
PRUNE = {"step": "prune", "scope": "local", "batches": 1}
INT8 = {"step": "quantize", "engine": "onnxruntime", "images": 16, "max_drop": 100, "seconds": 0.01}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return slimcnn.save(slimcnn.build("resnet8"), tmp_path_factory.mktemp("weights") / "net.safetensors")


def run_of(weights: Path | None, out: Path, *steps: dict[str, Any]) -> Any:
    network = {"weights": str(weights)} if weights else {"model": "resnet8"}
    return run(recipe_from(QUICK | {"network": network, "steps": list(steps), "out": str(out)}))


@pytest.fixture(scope="module")
def finished(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "r"
    run_of(weights, out, PRUNE, {"step": "export", "to": ["onnx"], "images": 8}, INT8)
    return out


def test_int8_of_the_final_network_lies_at_the_top_of_the_folder_and_in_the_report(finished: Path) -> None:
    assert set(read_parity(finished)) == {"onnx", "onnx_int8"}
    assert read_parity(finished)["onnx"]["images"] == 8, "the file that the step export wrote is used"
    entry = read_parity(finished)["onnx_int8"]
    assert entry["source"] == source_digest(slimcnn.load(finished / "compressed.safetensors"))
    assert (entry["engine"], entry["calibration_images"], entry["top1"]["images"]) == ("onnxruntime", 16, 100)
    assert entry["test_top1"]["images"] == 100
    assert (finished / "model_int8.onnx").samefile(finished / "3-quantize" / "model_int8.onnx")
    report = json.loads((finished / "report.json").read_text())
    (section,) = [one for one in report["sections"] if one["title"] == "Int8"]
    files, layers = (block for block in section["blocks"] if block["kind"] == "table")
    assert [row[0] for row in files["rows"]] == ["model.onnx", "model_int8.onnx"]
    assert len(layers["rows"]) == len(read_layers(finished / "model.onnx"))
    assert section["blocks"][1]["text"].startswith("Ship model")


def read_layers(path: Path) -> tuple[str, ...]:
    from slimcnn.exporting.quantizing import engines

    return engines["onnxruntime"].value().layers(path)


def test_a_network_without_trained_weights_an_unknown_engine_and_impossible_fine_tuning_are_refused_first(
    weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="int8 needs trained weights: give --weights FILE, or put train in front"):
        run_of(None, tmp_path / "a", INT8)
    with pytest.raises(UnknownName, match="unknown engine 'ncnf': did you mean 'nncf'"):
        run_of(weights, tmp_path / "b", INT8 | {"engine": "ncnf"})
    with pytest.raises(ExportError, match="does not support fine-tuning: choose nncf"):
        run_of(weights, tmp_path / "c", {"step": "train", "epochs": 1}, INT8 | {"epochs": 1})
    assert not (tmp_path / "c" / "1-train").exists()


@pytest.mark.slow
def test_the_command_quantizes_a_run_into_its_folder_from_the_float_file_that_is_there(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = f"quantize {finished} --engine onnxruntime --images 24 --max-drop 100 --json"
    before = (finished / "model.onnx").stat().st_mtime_ns
    code, out, err = call(command, capsys, monkeypatch)
    assert code == 0, err
    assert json.loads(out)["calibration_images"] == 24
    assert read_parity(finished)["onnx_int8"]["calibration_images"] == 24
    assert (finished / "model.onnx").stat().st_mtime_ns == before
    assert not differences(finished), "the manifest knows the new file"
    assert "model_int8.onnx" in read_manifest(finished).files


@pytest.mark.slow
def test_the_command_quantizes_a_checkpoint_on_the_images_it_names_and_says_which_file_to_ship(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = finished / "compressed.safetensors"
    command = f"quantize {checkpoint} --engine onnxruntime --images 8 --max-drop 100 --out {tmp_path / 'int8'}"
    code, out, err = call(command, capsys, monkeypatch)
    assert code == 0, err
    assert "ship model" in out
    assert set(read_parity(tmp_path / "int8")) == {"onnx", "onnx_int8"}


@pytest.mark.parametrize(
    ("options", "said"),
    [("nowhere", "nowhere"), ("{run} --engine ncnf", "did you mean 'nncf'"), ("{run} --data digits", "remove --data"),
     ("{run} --engine onnxruntime --epochs 2", "does not support fine-tuning")],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(
    options: str, said: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, _, err = call(f"quantize {options.format(run=finished)} --out {tmp_path / 'x'}", capsys, monkeypatch)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "x").exists()
