"""Peak memory of a fresh process that only opens an exported file and predicts."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor

from slimcnn.errors import ExportError
from slimcnn.exporting.parity import reason_of_death
from slimcnn.exporting.runtimes import RUNTIMES, reader_of


@dataclass(frozen=True)
class ProcessMemory:
    """Resident memory of fresh processes, bytes."""

    bytes: int
    """What opening the file and predicting adds to a process in which the same runtime has run a network of one layer:
    weights, activations and what the runtime needs for them, at the highest moment. Median of the processes."""
    least: int
    most: int
    whole: int
    """Of the whole process at that moment, with Python, numpy and the runtime."""
    processes: int


def process_memory(
    runtime: str, path: Path, x: Tensor, *, probe: Path, probed: Tensor, threads: int = 1, processes: int = 3
) -> ProcessMemory:
    """Let fresh processes open a file and predict, and measure what that adds to their memory.

    The process cannot import slimcnn, and PyTorch only where the runtime needs it. It opens and runs the probe, then
    notes its resident memory, then opens the file and predicts three times; what counts is the peak since the note.

    Args:
        runtime: a name of `RUNTIMES`.
        path: the exported file.
        x: what it is asked, (n, c, h, w).
        probe: a file of the same format that holds a network of one layer.
        probed: what the probe is asked.
        threads: CPU threads.
        processes: how many, one after the other.

    Raises:
        ExportError: the runtime refuses a file, or its process dies.
    """
    known = RUNTIMES[runtime]
    with TemporaryDirectory(prefix="slimcnn-") as folder:
        home = Path(folder)
        np.savez(home / "inputs.npz", probe=probed.numpy(), model=x.numpy())
        job = {
            "reader": str(reader_of(runtime)), "model": str(path.resolve()), "probe": str(probe.resolve()),
            "threads": threads, "inputs": str(home / "inputs.npz"), "outputs": str(home / "memory.json"),
            "blocked": ["slimcnn", "torch"] if known.without_torch else ["slimcnn"],
        }  # fmt: skip
        (home / "job.json").write_text(json.dumps(job), encoding="utf-8")
        found = [_measured(home, known.title, path) for _ in range(processes)]
    above = sorted(one["above"] for one in found)
    return ProcessMemory(
        bytes=int(median(above)), least=above[0], most=above[-1], whole=int(median(one["peak"] for one in found)),
        processes=processes,
    )  # fmt: skip


def _measured(home: Path, title: str, path: Path) -> dict[str, Any]:
    # -P: the script's own folder holds files that are called like packages.
    script = Path(__file__).with_name("fresh_memory.py")
    done = subprocess.run(
        [sys.executable, "-P", str(script), str(home / "job.json")], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ExportError(f"{title} cannot run {path.name}: {reason_of_death(done)}")
    found: dict[str, Any] = json.loads((home / "memory.json").read_text(encoding="utf-8"))
    return found
