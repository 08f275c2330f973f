"""A study that takes seconds: a small network on digits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimcnn.studying import Study, parse_study

TEXT = """
deterministic = true
latency_seconds = 0.05
[study]
seeds = [0, 1]
baseline = "l2"
measure = ["accuracy", "validation", "macs_left", "params"]
[network]
model = "resnet8"
[data]
name = "digits"
limit = 120
[[steps]]
step = "train"
epochs = 1
[[steps]]
step = "prune"
scope = "local"
[vary]
"prune.criterion" = ["fpgm", "l2"]
"prune.macs" = [0.6]
"""


def changed(*pairs: tuple[str, str]) -> str:
    """The text above with parts replaced."""
    text = TEXT
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def small_study(*pairs: tuple[str, str]) -> Study:
    return parse_study(changed(*pairs), "small")


@contextmanager
def workers_in(folder: Path, *lines: tuple[str, ...]) -> Iterator[list[subprocess.Popen[str]]]:
    """Start a worker for each line of arguments; all but the first, which the block may kill, must end well."""
    found = [worker(folder, *line) for line in lines]
    try:
        yield found
        for one in found[1:]:
            _, errors = one.communicate(timeout=300)
            assert one.returncode == 0, errors
    finally:
        for one in found:
            one.kill()
            one.communicate()


def worker(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `slimcnn study` in a process of its own."""
    file = folder / "small.toml"
    if not file.exists():
        file.write_text(TEXT)
    command = [sys.executable, "-m", "slimcnn.cli", "study", str(file), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
