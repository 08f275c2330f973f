"""`slimcnn benchmark`: runs, checkpoints, exported files and networks by name, on the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import slimcnn
from command_line import call
from slimcnn.benchmarking import Benchmark, BenchmarkRow, subjects_of
from slimcnn.errors import ModelError, RunError
from slimcnn.exporting import record, source_digest, write_model
from slimcnn.manifest import differences, read_manifest
from slimcnn.running.settings import Network
from slimcnn.show import SILENT
from slimcnn.steps import Prune

EXAMPLE = torch.zeros(1, 1, 8, 8)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two networks for digits, with random weights."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    torch.manual_seed(0)
    net = slimcnn.build("resnet8", in_channels=1)
    data = slimcnn.load_dataset("digits").limit(40)
    prune = Prune(macs=0.5, scope="local", criterion="l1")
    slimcnn.chain(net, data, [prune], out=folder, show=SILENT, latency_seconds=0.01)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """The same run in a folder of the test's own."""
    return Path(shutil.copytree(finished, tmp_path / "first"))


def test_a_run_is_compared_with_its_original_on_its_own_images(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = f"benchmark {run} --runtime torch --batch 1,2 --images 30 --seconds 0 --processes 0"
    code, out, err = call(command, capsys, monkeypatch)
    assert code == 0, err
    assert "with 1 thread, ship" in out
    data = json.loads((run / "benchmark.json").read_text())
    assert [(row["network"], row["batch"]) for row in data["rows"]] == [
        ("original", 1), ("compressed", 1), ("original", 2), ("compressed", 2),
    ]  # fmt: skip
    assert (data["images"], data["part"], data["complete"]) == (30, "test", True)
    rows = {row["network"]: row for row in data["rows"]}
    images = slimcnn.load_dataset("digits").test.limit(30)
    for name, found in rows.items():
        model = slimcnn.load(run / f"{name}.safetensors")
        normal = slimcnn.load_dataset("digits").normalization
        assert found["top1"] == pytest.approx(slimcnn.evaluate(model, images, normal).top1)
        assert found["bytes"] == (run / f"{name}.safetensors").stat().st_size
    assert {"benchmark.html", "benchmark.json"} <= set(read_manifest(run).files)
    assert differences(run) == {}
    page = (run / "benchmark.html").read_text()
    assert "Accuracy against milliseconds" in page
    assert "30 test images" in page
    code, out, _ = call(f"{command} --json --out {run}/there", capsys, monkeypatch)
    assert json.loads(out)["rows"][0]["network"] == "original"
    assert (run / "there" / "benchmark.html").exists()


def test_ctrl_c_keeps_the_rows_so_far(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Iterator[Benchmark]:
        yield Benchmark((BenchmarkRow("original", "torch", 1, 1, why="no"),), 0, "test", 1.0, 1.0, complete=False)
        raise KeyboardInterrupt

    monkeypatch.setattr("slimcnn.benchmarking.compare", interrupted)
    code, _, err = call(f"benchmark {run} --runtime torch", capsys, monkeypatch)
    assert code == 130
    assert "interrupted; 1 rows saved in" in err
    data = json.loads((run / "benchmark.json").read_text())
    assert (len(data["rows"]), data["complete"]) == (1, False)
    assert "The benchmark was interrupted" in (run / "benchmark.html").read_text()


def test_exports_of_the_same_weights_and_int8_files_of_a_run_are_what_is_measured(run: Path) -> None:
    compressed = slimcnn.load(run / "compressed.safetensors")
    for name in ("model", "model_int8"):
        (run / f"{name}.onnx").write_bytes(b"a file")
    facts = {"dtype": "float32", "batch": "any"}
    more = {"facts": facts, "status": "equal", "images": 8, "max_error": 0.0}
    source = source_digest(compressed)
    record(run, "onnx", {"source": source, "files": {"model.onnx": ""}, **more})
    record(run, "onnx_int8", {"source": source, "files": {"model_int8.onnx": ""}, **more})
    original, small, int8 = subjects_of([run]).candidates
    assert (original.name, small.name, int8.name) == ("original", "compressed", "int8")
    assert original.files == {}
    assert small.files == {"onnxruntime": run / "model.onnx"}
    assert (int8.model, int8.files) == (None, {"onnxruntime": run / "model_int8.onnx"})
    record(run, "onnx", {"source": "of other weights", "files": {"model.onnx": ""}, **more})
    record(run, "onnx_int8", {"source": "of other weights", "files": {"model_int8.onnx": ""}, **more})
    found = subjects_of([run])
    assert [(one.name, dict(one.files)) for one in found.candidates] == [("original", {}), ("compressed", {})]
    assert "model_int8.onnx was made from other weights" in found.notes[0]


def test_networks_of_several_runs_are_called_after_them_and_a_common_original_comes_once(
    run: Path, tmp_path: Path
) -> None:
    second = Path(shutil.copytree(run, tmp_path / "second"))
    slimcnn.save(
        slimcnn.build("resnet8", in_channels=1, width=0.5),
        second / "compressed.safetensors",
        information={"input": [1, 8, 8], "normalization": {"mean": [0.5], "std": [0.5]}},
    )
    found = subjects_of([run, second])
    assert [one.name for one in found.candidates] == ["original", "first/compressed", "second/compressed"]
    assert found.candidates[2].normalization == slimcnn.datasets.Normalization((0.5,), (0.5,))


def test_checkpoints_exported_files_and_networks_by_name_are_measured_without_images(run: Path, tmp_path: Path) -> None:
    (file,) = write_model(slimcnn.build("resnet8", in_channels=1).eval(), EXAMPLE, "onnx", tmp_path / "mine")
    found = subjects_of(
        [run / "compressed.safetensors", file],
        Network(model="resnet8", arguments={"in_channels": 1}),
        input_shape=(1, 8, 8),
    )
    assert [one.name for one in found.candidates] == ["compressed", "mine.onnx", "resnet8"]
    assert found.images is None
    assert found.notes == ("Top-1 is not measured: give --data.",)
    assert found.example.shape == (1, 1, 8, 8)


def test_networks_for_different_inputs_are_refused(run: Path) -> None:
    with pytest.raises(ModelError, match=r"compressed 1x8x8, resnet20 3x32x32"):
        subjects_of([run / "compressed.safetensors"], Network(model="resnet20"))
    with pytest.raises(ModelError, match="two networks would be called compressed"):
        subjects_of([run / "compressed.safetensors", run / "compressed.safetensors"])


def test_a_run_whose_images_are_away_is_measured_without_top1(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise slimcnn.errors.DataError("no network here")

    monkeypatch.setattr("slimcnn.benchmarking.subjects.load_dataset", away)
    found = subjects_of([run])
    assert found.images is None
    assert found.notes == ("Top-1 is not measured: no network here.",)


def test_a_run_without_its_checkpoint_is_refused(run: Path) -> None:
    (run / "compressed.safetensors").unlink()
    with pytest.raises(RunError, match=r"has no compressed\.safetensors"):
        subjects_of([run])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("benchmark", "nothing to measure: "),
        ("benchmark --model resnet8 --runtime onxruntime", "did you mean 'onnxruntime'"),
        ("benchmark --model resnet8 --runtime coreml", "Core ML"),
        ("benchmark --model resnet8 --batch 0", "--batch '0'"),
        ("benchmark --model resnet8 --batch 1,many", "--batch '1,many'"),
        ("benchmark --model resnet8 --threads 0", "--threads '0'"),
        ("benchmark --model resnet8 --part training", "unknown part 'training'"),
        ("benchmark --model resnet9", "did you mean 'resnet8'"),
        ("benchmark nowhere", "no file or folder nowhere"),
        ("benchmark .", "no report at"),
        ("benchmark letter.txt", "those end with"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    command: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letter.txt").write_text("dear")
    code, out, err = call(command, capsys, monkeypatch)
    assert (code, out) == (2, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith("slimcnn: ")
    assert message in last
    assert "Traceback" not in err
    assert not list(tmp_path.glob("benchmark.*"))
