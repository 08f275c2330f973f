"""The rows of benchmarks/, as the claims need them."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@cache
def read(name: str) -> Any:
    """Read a JSON file."""
    return json.loads((BENCHMARKS / name).read_text(encoding="utf-8"))


@cache
def read_lines(name: str) -> list[dict[str, Any]]:
    """Read a file of JSON lines."""
    return [json.loads(line) for line in (BENCHMARKS / name).read_text(encoding="utf-8").splitlines()]


def read_all(pattern: str) -> list[Any]:
    """Read all JSON files that match; there must be some."""
    names = sorted(str(path.relative_to(BENCHMARKS)) for path in BENCHMARKS.glob(pattern))
    if not names:
        raise FileNotFoundError(f"no rows in benchmarks/{pattern}")
    return [read(name) for name in names]


def deployed(network: str, runtime: str, batch: int) -> dict[str, Any]:
    """Return the row of a network of benchmarks/device/plans.json."""
    asked = (network, runtime, batch)
    rows: list[dict[str, Any]] = read("device/plans.json")["benchmark"]["rows"]
    (row,) = [row for row in rows if (row["network"], row["runtime"], row["batch"]) == asked]
    return row


def study(folder: str, **point: Any) -> list[dict[str, float]]:
    """Return the measures of a point of a study, by seed; a setting's dots are written as underscores."""
    return [
        row["values"]
        for row in sorted(read(f"{folder}/study.json")["rows"], key=lambda row: row["seed"])
        if {name.replace(".", "_"): value for name, value in row["point"].items()} == point
    ]


def study_steps(folder: str) -> dict[str, str]:
    """Return the chains of a study that varies its steps, by name."""
    steps: dict[str, str] = tomllib.loads(read(f"{folder}/study.json")["source"])["vary"]["steps"]
    return steps


def compressed() -> dict[str, float]:
    """Return the measures of `slimcnn compress` as it comes, ResNet-56 at half; `before` is the original."""
    (found,) = study("label_free_resnet56", steps="all_images", prune_macs=0.5)
    return found | {"before": found["accuracy"] - found["change"]}


def combined(steps: str, macs: float) -> dict[str, float]:
    """Return the measures of a chain of the study on ResNet-56; `before` is the top-1 of the original."""
    (found,) = study("combinations_resnet56", steps=steps, prune_macs=macs)
    return found | {"before": found["accuracy"] - found["change"]}


def without_training(criterion: str, scope: str, macs: float, recovery: str) -> float:
    """Return test top-1 of ResNet-56, the mean over the draws of images; without a recovery, one draw was cut."""
    rows = read_all(f"without_training/{criterion}_{scope}_{macs:g}_[0-9].json")
    top1: list[float] = [row["top1"][recovery] for row in rows if recovery in row["top1"]]
    return mean(top1)


def zoo(library: str) -> Counter[str]:
    """Count the outcomes of a library on the networks of the zoo."""
    return Counter(row["outcome"] for row in read_lines(f"zoo/{library}.jsonl"))
