"""The manifest of a run's folder: what it claims, and who may change a claim."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimcnn.errors import RunError
from slimcnn.manifest import (
    MANIFEST,
    claim,
    differences,
    files_in,
    is_as_claimed,
    read_manifest,
    withdraw,
    write_manifest,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("run.json", "2-prune/plan.json", "2-prune/search.log", ".lock", "certificate.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("first line\n")
    (tmp_path / "link.json").symlink_to("/etc/hostname")
    write_manifest(tmp_path, {})
    return tmp_path


def test_hidden_files_links_certificates_and_the_manifest_are_not_claimed(folder: Path) -> None:
    assert (
        list(read_manifest(folder).files) == files_in(folder) == ["2-prune/plan.json", "2-prune/search.log", "run.json"]
    )


def test_a_log_may_grow_and_nothing_else_may(folder: Path) -> None:
    for name in ("plan.json", "search.log"):
        with (folder / "2-prune" / name).open("a") as file:
            file.write("written by another process\n")
    assert differences(folder) == {"2-prune/plan.json": "has changed"}
    (folder / "2-prune" / "search.log").write_text("first")
    assert "2-prune/search.log" in differences(folder)


def test_files_that_are_claimed_later_join_the_manifest_of_their_run(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    package = folder / "model.mlpackage"
    (package / "Data").mkdir(parents=True)
    (package / "Data" / "weights.bin").write_text("w")
    (folder / "2-prune" / "plan.json").write_text("written again")
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "model.onnx"
    elsewhere.write_text("m")
    claim(package, folder / "2-prune" / "plan.json", elsewhere)
    assert differences(folder) == {}
    assert "model.mlpackage/Data/weights.bin" in read_manifest(folder).files
    assert is_as_claimed(folder / "run.json")
    assert not is_as_claimed(elsewhere)


def test_somebody_elses_manifest_is_left_alone(folder: Path) -> None:
    (folder / "run.json").unlink()
    (folder / MANIFEST).write_text("{}")
    claim(folder / "2-prune" / "plan.json")
    assert (folder / MANIFEST).read_text() == "{}"


def test_a_withdrawn_manifest_means_an_unfinished_run(folder: Path) -> None:
    withdraw(folder)
    withdraw(folder)
    with pytest.raises(RunError, match="the run is not finished"):
        read_manifest(folder)
