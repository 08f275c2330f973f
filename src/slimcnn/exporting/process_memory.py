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
    """Resident memory of fresh processes, in bytes."""

    bytes: int
    """Peak memory that opening the file and predicting adds to a process in which the same runtime has already run a
    one-layer network: weights, activations and buffers of the runtime. Median of the processes."""
    least: int
    most: int
    whole: int
    """Peak of the whole process, with Python, numpy and the runtime."""
    processes: int


def process_memory(
    runtime: str, path: Path, x: Tensor, *, probe: Path, probed: Tensor, threads: int = 1, processes: int = 3
) -> ProcessMemory:
    """Measure the memory that opening a file and predicting adds to a fresh process.

    The process cannot import slimcnn, and PyTorch only if the runtime needs it. It opens and runs the probe, records
    its resident memory, then opens the file and predicts three times. The result is the peak above the recorded value.

    Args:
        runtime: a key of `RUNTIMES`.
        path: the exported file.
        x: the file's input, (n, c, h, w).
        probe: a file of the same format with a one-layer network.
        probed: the probe's input.
        threads: CPU threads.
        processes: number of processes, run one after the other.

    Raises:
        ExportError: the runtime cannot run a file, or its process dies.
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
    # -P: the script's folder contains files with the names of packages.
    script = Path(__file__).with_name("fresh_memory.py")
    done = subprocess.run(
        [sys.executable, "-P", str(script), str(home / "job.json")], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ExportError(f"{title} cannot run {path.name}: {reason_of_death(done)}")
    found: dict[str, Any] = json.loads((home / "memory.json").read_text(encoding="utf-8"))
    return found
