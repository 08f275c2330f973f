"""Paths that may not be read or written are one line, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ATTEMPTS = """
import os, sys
from pathlib import Path
import torch
import slimcnn.pruning.criteria, slimcnn.searching.journal
from slimcnn.checkpoints import is_checkpoint, load, read_information, save
from slimcnn.datasets import datasets, load_dataset
from slimcnn.errors import DataError, RunError, SlimcnnError, WeightsError
from slimcnn.files import kind_of, require_folder, write_text
from slimcnn.models import load_weights
from slimcnn.searching import Search, StudyStorage
import optuna, PIL.Image
PIL.Image.init()

net, place, settings = torch.nn.Linear(1, 1), Path(sys.argv[1]), Search()
list(datasets), net.state_dict()
torch.save({"a": 1}, "/dev/null")
attempts = {
    "weights in a closed folder": (WeightsError, lambda: load_weights(net, place / "closed" / "net.pth")),
    "closed .pth": (WeightsError, lambda: load_weights(net, place / "net.pth")),
    "closed .safetensors": (WeightsError, lambda: load_weights(net, place / "net.safetensors")),
    "checkpoint in a closed folder": (WeightsError, lambda: is_checkpoint(place / "closed" / "net.safetensors")),
    "load from a closed folder": (WeightsError, lambda: load(place / "closed" / "net.safetensors", net)),
    "closed checkpoint": (WeightsError, lambda: is_checkpoint(place / "net.safetensors")),
    "load a closed checkpoint": (WeightsError, lambda: load(place / "net.safetensors", net)),
    "information": (WeightsError, lambda: read_information(place / "net.safetensors")),
    "data in a closed folder": (DataError, lambda: load_dataset(place / "closed" / "photos")),
    "closed folder of data": (DataError, lambda: load_dataset(place / "closed")),
    "classes without x": (DataError, lambda: load_dataset(place / "listed")),
    "closed class": (DataError, lambda: load_dataset(place / "photos")),
    "closed archive": (DataError, lambda: load_dataset(f"cifar10:{place}/closed/archive", root=place / "open")),
    "closed cache": (RunError, lambda: load_dataset("cifar10", root=place / "closed" / "cache")),
    "save": (RunError, lambda: save(net, place / "closed" / "net.safetensors")),
    "write": (RunError, lambda: write_text(place / "closed" / "out" / "report.html", "")),
    "write into a folder that may only be read": (RunError, lambda: write_text(place / "photos" / "report.html", "")),
    "require": (RunError, lambda: require_folder(place / "closed" / "out")),
    "kind": (RunError, lambda: kind_of(place / "closed" / "out")),
    "search": (RunError, lambda: StudyStorage.open(place / "photos" / "points.log", "one", settings)),
}
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
for name, (kind, attempt) in attempts.items():
    try:
        attempt()
        print(f"{name}: nothing was refused")
    except SlimcnnError as error:
        right = isinstance(error, kind) and "\\n" not in str(error) and str(place) in str(error)
        right = right and "Permission denied" in str(error)
        print("right" if right else f"{name}: {type(error).__name__} {error}")
    except BaseException as error:
        print(f"{name}: a traceback, {error!r}")
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users may enter, as pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.skipif(os.name != "posix", reason="rights of another kind")
def test_what_may_not_be_read_or_written_is_one_line(place: Path) -> None:
    """Root may read everything, so a process of its own gives up root's rights."""
    for folder in ("closed", "listed/a", "listed/b", "photos/a", "photos/b", "open"):
        (place / folder).mkdir(parents=True)
    for name in ("net.pth", "net.safetensors"):
        (place / name).write_bytes(b"")
        (place / name).chmod(0)
    (place / "closed").chmod(0)
    (place / "listed").chmod(0o444)
    (place / "photos" / "a").chmod(0)
    (place / "photos").chmod(0o555)
    (place / "open").chmod(0o777)
    place.chmod(0o755)
    try:
        done = subprocess.run([sys.executable, "-c", ATTEMPTS, str(place)], capture_output=True, text=True, check=False)
    finally:
        for folder in ("closed", "listed", "photos", "photos/a"):
            (place / folder).chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert {line for line in done.stdout.splitlines() if line != "right"} == set()
    assert len(done.stdout.splitlines()) == 20
