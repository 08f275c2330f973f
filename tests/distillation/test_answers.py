"""A teacher's cache on a disk: whole or not there at all, also where the disk is full or the file is damaged."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from slimcnn.distillation.answers import Answers
from slimcnn.errors import RunError

ON_A_SMALL_DISK = """
import sys, torch
from pathlib import Path
from slimcnn.distillation.answers import Answers
from slimcnn.errors import RunError
folder = Path(sys.argv[1])
answers = Answers(folder / "answers.npy", images=20_000, views=2, teacher="someone")
try:
    answers.write(0, torch.arange(20_000), torch.zeros(20_000, 10))
except RunError as error:
    print(error)
print(sorted(path.name for path in folder.iterdir()))
"""


def answers(path: Path, images: int = 20, views: int = 2, teacher: str = "someone") -> Answers:
    return Answers(path, images, views, teacher)


@pytest.fixture
def small_disk(tmp_path: Path) -> list[str]:
    """The beginning of a command that runs another one with 1 MiB of space in `tmp_path`."""
    mount = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        f'mount -t tmpfs -o size=1m none {tmp_path} && "$@"',
        "-",
    ]
    if not shutil.which("unshare") or subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system does not let a test mount a small disk")
    return mount


def test_a_disk_that_is_too_small_is_one_line_with_the_size_and_nothing_stays_behind(
    tmp_path: Path, small_disk: list[str]
) -> None:
    command = [*small_disk, sys.executable, "-c", ON_A_SMALL_DISK, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, (found.returncode, found.stderr)
    error, left = found.stdout.splitlines()
    assert "answers.npy: No space left on device; it needs 1.6 MB" in error
    assert left == "[]"


@pytest.mark.parametrize("reserving", [True, False])
def test_a_limit_on_the_size_of_files_is_one_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reserving: bool
) -> None:
    if not reserving:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(RunError, match=r"cannot write .*answers.npy: .*; it needs 0.8 MB") as caught:
            answers(tmp_path / "answers.npy", images=10_000).write(0, torch.tensor([1]), torch.zeros(1, 10))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_all_space_is_taken_at_once_and_rows_are_there_or_nan(tmp_path: Path) -> None:
    path, logits = tmp_path / "answers.npy", torch.randn(3, 7)
    kept = answers(path)
    kept.write(1, torch.tensor([4, 0, 19]), logits)
    assert path.stat().st_blocks * 512 >= 2 * 20 * 7 * 4
    again = answers(path)
    assert torch.equal(again.read(1, torch.tensor([0, 4])), logits[[1, 0]])
    assert again.read(1, torch.tensor([0, 5])) is None
    assert again.read(0, torch.tensor([0])) is None
    assert np.isnan(np.load(path)).sum() == (2 * 20 - 3) * 7


def test_a_file_whose_teacher_is_not_known_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.npy"
    answers(path).write(0, torch.tensor([0]), torch.zeros(1, 7))
    (tmp_path / "answers.json").unlink()
    with pytest.raises(RunError, match=r"answers.json .* identify the teacher"):
        answers(path)
    (tmp_path / "answers.json").write_text('{"tea')
    with pytest.raises(RunError, match=r"answers.json .* identify the teacher"):
        answers(path)


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00v\x00{'descr'"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "answers.npy"
    answers(path).write(0, torch.tensor([0]), torch.zeros(1, 7))
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"answers.npy .* delete it") as caught:
        answers(path).read(0, torch.tensor([0]))
    assert "\n" not in str(caught.value)


def test_a_file_larger_than_the_free_space_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the disk is being filled")

    monkeypatch.setattr(os, "posix_fallocate", never)
    for views in (10**9, 10**30):
        with pytest.raises(RunError, match=r"No space left on device; it needs .* MB") as error:
            answers(tmp_path / "answers.npy", images=10_000, views=views).write(0, torch.arange(2), torch.zeros(2, 100))
        assert "\n" not in str(error.value)
        assert not list(tmp_path.iterdir())
