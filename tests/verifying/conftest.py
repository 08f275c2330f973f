"""One finished run for all tests here; each works on a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from slimcnn.reporting import storing
from slimcnn.running import recipe_from, run
from slimcnn.running.recipe import steps_from_line

CHAIN = "train:epochs=1 + prune:macs=0.6,batches=1 + least_squares:images=64"


def run_chain(out: Path, line: str = CHAIN, **more: object) -> Path:
    """Run a chain on few digits; the page is a function of report.json and takes most of a run's time."""
    plain = {
        "network": {"model": "resnet8"}, "data": {"name": "digits", "limit": 100}, "steps": steps_from_line(line),
        "deterministic": True, "latency_seconds": 0.01, "out": str(out),
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storing, "render", lambda report: f"<html>{report.title}</html>")
        patch.setattr(storing, "render_curve", lambda report: f"<html>{report.title}</html>")
        run(recipe_from(plain | more))
    return out


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_chain(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def again() -> Callable[[Path, str], Path]:
    return run_chain
