"""Runs of chains in processes of their own, forked from one that has imported everything: a start takes 20 ms."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import torch

from slimcnn.running import recipe_from, run

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["laws.chain_runs", "slimcnn.steps.prune", "slimcnn.datasets.sources.digits", "sklearn"])


def work(plain: dict[str, Any], told: str) -> None:
    """Run a recipe; what goes wrong is written to a file."""
    torch.set_num_threads(1)
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


def run_with_kills(plain: dict[str, Any], told: Path, whole: float, moments: random.Random, kills: int) -> int:
    """Run, kill with SIGKILL at random moments, and run to the end; how often it was really killed."""
    hit = 0
    for _ in range(kills):
        process = start(plain, told)
        process.join(timeout=whole * moments.uniform(0.1, 0.9))
        hit += process.is_alive()
        process.kill()
        process.join()
    run_calmly(plain, told)
    return hit
