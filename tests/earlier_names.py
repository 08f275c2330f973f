"""Files as they were written when the validation metric of every task was called top1."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from slimcnn.running.folder import read_sealed, write_sealed

STEP = {"metric": "top1"}
DONE = {"metric": "top1", "reference_metric": "reference_top1"}
EPOCH = {"train_accuracy": "train_top1", "validation_metric": "validation_top1", "kept_metric": "kept_top1"}


def renamed(content: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    assert set(content) & set(names), f"none of {', '.join(names)} in {', '.join(content)}"
    return {names.get(name, name): value for name, value in content.items()}


def sections(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sections whose figures have the earlier names."""
    for block in (block for section in found for block in section["blocks"] if block["kind"] == "figure"):
        data = block["data"]
        if block["figure"] == "training":
            data["epochs"] = [renamed(epoch, EPOCH) for epoch in data["epochs"]]
        elif block["figure"] == "pareto":
            data["tried"] = [renamed(trial, STEP) for trial in data["tried"]]
            data["best"] = renamed(data["best"], STEP)
    return found


def report(found: dict[str, Any]) -> dict[str, Any]:
    """The content of a report.json, of a run or of a curve, in format 3."""
    if found["kind"] == "curve":
        points = [point | {"steps": [renamed(step, STEP) for step in point["steps"]]} for point in found["points"]]
        return found | {"format": 3, "points": points}
    steps = [renamed(step, STEP) for step in found["steps"]]
    changes = {"format": 3, "steps": steps, "sections": sections(found["sections"])}
    return renamed(found | changes, {"reference_metric": "reference_top1"})


def rewrite_state(path: Path) -> None:
    """Write a training state in format 3."""
    content = torch.load(path, weights_only=True)
    content["history"] = [renamed(epoch, EPOCH) for epoch in content["history"]]
    content["kept"] = content["kept"] and renamed(content["kept"], STEP)
    torch.save(content | {"format": 3}, path)


def rewrite_run(root: Path) -> Path:
    """Write the files of a run folder with the earlier names."""
    for path in root.rglob("done.json"):
        content = renamed(read_sealed(path), DONE)
        write_sealed(path, content | {"sections": sections(content["sections"])})
    for path in root.rglob("learning_rate.json"):
        choice = json.loads(path.read_text())
        path.write_text(json.dumps(choice | {"trials": [renamed(trial, STEP) for trial in choice["trials"]]}))
    for path in root.rglob("state.pt"):
        rewrite_state(path)
    for path in root.rglob("report.json"):
        path.write_text(json.dumps(report(json.loads(path.read_text()))))
    return root
