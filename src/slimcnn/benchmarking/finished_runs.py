"""The parts of a finished run that a benchmark reads: checkpoints, images and input."""

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
from slimcnn.reporting.comparison import TOP1
from slimcnn.reporting.outcome import MetricName
from slimcnn.running.folder import COMPRESSED, ORIGINAL
from slimcnn.running.settings import Data, Network


@dataclass(frozen=True)
class FinishedRun:
    """The checkpoints and settings of a finished run."""

    folder: Path
    network: Network
    """Settings of the run's original network."""
    data: Data
    checkpoints: Mapping[str, Path]
    """Paths of `original` and `compressed`."""
    shape: tuple[int, ...]
    """Shape of one image."""
    normalization: Normalization
    metric: MetricName = TOP1
    """The metric of its task."""


def finished_run(folder: Path) -> FinishedRun:
    """Read a finished run.

    Raises:
        RunError: the folder holds no finished run, or a curve; the message then lists the sizes.
    """
    report = read_report(folder)
    if isinstance(report, CurveReport):
        sizes = " ".join(str(folder / Path(point.report).parent) for point in report.points)
        raise RunError(f"{folder} holds several sizes: give one or more of them: {sizes}")
    checkpoints = {"original": folder / ORIGINAL, "compressed": folder / COMPRESSED}
    for path in checkpoints.values():
        if kind_of(path) != "file":
            raise RunError(f"{folder} has no {path.name}: run the same command again, or give a checkpoint")
    information = read_information(checkpoints["compressed"])
    try:
        recipe = tomllib.loads(report.recipe)  # not parsed as a Recipe: the steps do not matter here
        known = information["normalization"]
        return FinishedRun(
            folder, Network(**recipe["network"]), Data(**recipe["data"]), checkpoints, tuple(information["input"]),
            Normalization(tuple(known["mean"]), tuple(known["std"])), report.metric,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise RunError(f"the report or the checkpoint of {folder} is damaged ({reason:.200}); run it again") from error
