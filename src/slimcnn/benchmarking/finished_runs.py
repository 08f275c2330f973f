"""A finished run, as far as a benchmark reads it: its checkpoints, images and input."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slimcnn.checkpoints import read_information
from slimcnn.datasets import Normalization
from slimcnn.errors import RunError
from slimcnn.files import kind_of
from slimcnn.reporting import CurveReport, read_report
from slimcnn.running.folder import COMPRESSED, ORIGINAL
from slimcnn.running.settings import Data, Network


@dataclass(frozen=True)
class FinishedRun:
    """What a run's folder holds."""

    folder: Path
    network: Network
    """What the run began with."""
    data: Data
    checkpoints: Mapping[str, Path]
    """original and compressed"""
    shape: tuple[int, ...]
    """Of one image."""
    normalization: Normalization


def finished_run(folder: Path) -> FinishedRun:
    """Read a finished run.

    Raises:
        RunError: the folder holds no finished run, or a curve; then it names the sizes.
    """
    report = read_report(folder)
    if isinstance(report, CurveReport):
        sizes = " ".join(str(folder / Path(point.report).parent) for point in report.points)
        raise RunError(f"{folder} holds several sizes: give some of them: {sizes}")
    checkpoints = {"original": folder / ORIGINAL, "compressed": folder / COMPRESSED}
    for path in checkpoints.values():
        if kind_of(path) != "file":
            raise RunError(f"{folder} has no {path.name}: run the same command again, or give a checkpoint itself")
    recipe = tomllib.loads(report.recipe)  # not as a Recipe: what the steps were does not matter here
    information = read_information(checkpoints["compressed"])
    known = information["normalization"]
    return FinishedRun(
        folder, Network(**recipe["network"]), Data(**recipe["data"]), checkpoints, tuple(information["input"]),
        Normalization(tuple(known["mean"]), tuple(known["std"])),
    )  # fmt: skip
