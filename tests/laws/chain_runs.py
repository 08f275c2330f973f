"""Runs of chains in processes of their own, forked from one that has imported everything: a start takes 20 ms."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from slimcnn.reporting import storing
from slimcnn.running import recipe_from, run, steps

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "slimcnn.running", "slimcnn.datasets.sources.digits", "lightning_fabric", "torch._dynamo",
        "matplotlib.figure", "matplotlib.backends.backend_svg", "jinja2", "tomli_w", "scipy.optimize",
        "torch.onnx", "torch.export", "onnx", "onnxscript",
        *(entry.value.__module__ for entry in steps),
    ]
)  # fmt: skip


def work(plain: dict[str, Any], told: str) -> None:
    """Run a recipe; what goes wrong is written to a file."""
    torch.set_num_threads(1)
    # The page is a function of report.json, which has tests of its own; drawing it would take most of the time.
    storing.render = lambda report: report.title
    try:
        run(recipe_from(plain))
    except Exception as error:
        Path(told).write_text(f"{type(error).__name__}: {error}")
        raise SystemExit(1) from None


def start(plain: dict[str, Any], told: Path) -> Any:
    process = SERVER.Process(target=work, args=(plain, str(told)))
    process.start()
    return process


def run_calmly(plain: dict[str, Any], told: Path) -> float:
    """Run to the end; the seconds that it took."""
    began = time.monotonic()
    process = start(plain, told)
    process.join()
    assert process.exitcode == 0, told.read_text() if told.exists() else process.exitcode
    return time.monotonic() - began


def run_with_kills(plain: dict[str, Any], told: Path, whole: float, moments: random.Random, kills: int) -> None:
    """Run, kill with SIGKILL at random moments, and run to the end; a run that ends before its kill begins again."""
    hit = 0
    while hit < kills:
        process = start(plain, told)
        process.join(timeout=whole * moments.uniform(0.1, 0.9))
        alive = process.is_alive()
        process.kill()
        process.join()
        hit += alive
        if not alive:
            whole *= 0.8
            shutil.rmtree(plain["out"])
    run_calmly(plain, told)


def warm_up() -> None:
    """Let the server import everything, so that the first run takes no longer than the others."""
    process = SERVER.Process(target=time.sleep, args=(0,))
    process.start()
    process.join()
