"""Exported files are checked again: in a run's folder against the run's networks, elsewhere against a checkpoint."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx.numpy_helper
import pytest

import slimcnn
from slimcnn.cli import main
from slimcnn.errors import RunError
from slimcnn.exporting import export, file_digest
from slimcnn.manifest import claim, read_manifest, write_manifest
from slimcnn.verifying import Certificate

ANSWERS, DIGEST = "onnx outputs match the network", "digest of the onnx export"


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the other tests, with its compressed network as model.onnx."""
    root = shutil.copytree(finished, tmp_path_factory.mktemp("exported") / "run")
    data = slimcnn.load_dataset("digits").limit(100)
    network = slimcnn.load(root / "compressed.safetensors")
    pixels = data.test.pixels[:20]
    (file,) = export(
        network, data.normalization(pixels[:1]), ["onnx"], out=root, images=pixels, normalization=data.normalization
    )
    claim(*file.files, root / "parity.json")
    return root


@pytest.fixture
def run(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "run")


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """The exported files alone."""
    (tmp_path / "files").mkdir()
    for path in [*exported.glob("model.onnx*"), exported / "parity.json"]:
        shutil.copyfile(path, tmp_path / "files" / path.name)
    return tmp_path / "files"


def outcome(found: Certificate, what: str) -> tuple[str, str]:
    (check,) = [check for check in found.checks if check.what == what]
    return check.status, check.why


def test_an_export_in_a_runs_folder_is_asked_again_in_a_fresh_process(run: Path) -> None:
    found = slimcnn.verify(run)
    assert not found.failed, found.failed
    (answers,) = [check for check in found.checks if check.what == ANSWERS]
    assert answers.error is not None
    assert answers.error < 1e-5
    assert "64 test images" in answers.why
    assert "against compressed.safetensors" in answers.why
    assert found.environment["onnxruntime"]
    assert {"model.onnx", "parity.json"} <= read_manifest(run).files.keys()


@pytest.mark.parametrize("name", ["model.onnx", "parity.json"])
def test_a_changed_byte_of_an_export_is_found(name: str, run: Path) -> None:
    content = bytearray((run / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run / name).write_bytes(content)
    assert (name, "has changed") in [(check.where, check.why) for check in slimcnn.verify(run, data=None).failed]


def test_other_weights_in_an_export_are_found_even_if_all_digests_were_rewritten(run: Path) -> None:
    held = onnx.load(run / "model.onnx")
    weights = next(one for one in held.graph.initializer if len(one.dims) == 4)
    weights.CopyFrom(onnx.numpy_helper.from_array(1.01 * onnx.numpy_helper.to_array(weights), weights.name))
    onnx.save(held, run / "model.onnx")
    parity = json.loads((run / "parity.json").read_text())
    parity["onnx"]["files"] = {"model.onnx": file_digest(run / "model.onnx")}
    (run / "parity.json").write_text(json.dumps(parity))
    write_manifest(run, read_manifest(run).images)
    found = slimcnn.verify(run, data=None)
    assert [check.what for check in found.failed] == [ANSWERS]
    assert "the error is above" in found.failed[0].why


def test_a_folder_of_exports_is_checked_by_digest_and_against_a_checkpoint(exported: Path, folder: Path) -> None:
    alone = slimcnn.verify(folder)
    assert not alone.failed
    assert outcome(alone, ANSWERS)[1].endswith("was not found: give --source FILE")
    found = slimcnn.verify(folder, source=exported / "compressed.safetensors")
    assert outcome(found, ANSWERS)[0] == "passed"
    assert "16 random samples" in outcome(found, ANSWERS)[1]
    assert (folder / "certificate.json").exists()
    other = slimcnn.verify(folder, source=exported / "original.safetensors")
    assert outcome(other, ANSWERS)[0] == "not checked"


def test_changed_missing_and_foreign_files_of_a_folder_of_exports_are_named(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    assert outcome(slimcnn.verify(folder), "digest")[0] == "not checked"
    (folder / "model.onnx").write_bytes(b"other")
    assert outcome(slimcnn.verify(folder), DIGEST) == ("failed", "model.onnx has changed")
    (folder / "model.onnx").unlink()
    assert outcome(slimcnn.verify(folder), DIGEST) == ("failed", "model.onnx is missing")
    known = json.loads((folder / "parity.json").read_text())
    known["onnx"]["files"] = {"../../etc/hostname": "0" * 64}
    (folder / "parity.json").write_text(json.dumps(known))
    assert "leads out of" in outcome(slimcnn.verify(folder), DIGEST)[1]
    (folder / "parity.json").write_text("{")
    assert outcome(slimcnn.verify(folder), "can be read")[0] == "failed"
    (folder / "parity.json").unlink()
    with pytest.raises(RunError, match="holds no run"):
        slimcnn.verify(folder)


def test_formats_that_hold_pickles_are_compared_by_digest_alone(exported: Path, folder: Path) -> None:
    known = json.loads((folder / "parity.json").read_text())
    known["onnx"]["runtime"] = "torch"
    (folder / "parity.json").write_text(json.dumps(known))
    found = slimcnn.verify(folder, source=exported / "compressed.safetensors")
    assert outcome(found, DIGEST)[0] == "passed"
    assert outcome(found, ANSWERS) == (
        "not checked",
        "PyTorch formats hold pickles and code, which are not loaded here",
    )


@pytest.mark.slow
def test_the_files_of_the_step_and_of_the_command_export_are_claimed_and_verified(
    tmp_path: Path, again: Callable[[Path, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = again(tmp_path / "run", "train:epochs=1 + prune:macs=0.6,batches=1,scope=local + export")
    monkeypatch.setattr(sys, "argv", ["slimcnn", "export", str(root), "--to", "onnx", "--out", str(root / "mine")])
    with pytest.raises(SystemExit, match="0"):
        main()
    found = slimcnn.verify(root)
    assert not found.failed, found.failed
    assert [check.where for check in found.checks if check.status == "not checked"] == ["report.json"]
    places = {check.where for check in found.checks if check.what == ANSWERS}
    assert {"model.onnx", "mine/model.onnx"} <= places
