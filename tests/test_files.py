"""Files are whole or not there at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from slimcnn.errors import RunError
from slimcnn.files import replacing, write_text


def test_a_failure_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "plan.json"
    write_text(target, "old")

    def write_half() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["plan.json"]


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "plan.json"
    write_text(target, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*No space left on device; free some space"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["plan.json"]


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs a file system that nobody may write to")
def test_a_folder_that_cannot_be_written_to_is_one_line() -> None:
    with pytest.raises(RunError, match="cannot write"):
        write_text(Path("/proc/slimcnn/plan.json"), "new")
