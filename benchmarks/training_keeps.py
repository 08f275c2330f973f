"""Show that no training step leaves a trained network worse than it found it: chains on a trained ResNet-20, CIFAR-10.

Each chain is a run of its own; rows are the steps, with validation top-1 before and after each. The steps that train
choose their own learning rate.

    python benchmarks/training_keeps.py resnet20_cifar10.safetensors
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rows import environment_lines, measured

from slimcnn.reporting.schema import Report
from slimcnn.running import folder, recipe_from, run
from slimcnn.running.recipe import steps_from_line

HERE = Path(__file__).parent
ROWS = HERE / "training_keeps"

CHAINS = {
    "half": "prune:macs=0.5 + least_squares + distill:epochs=2",
    "quarter": "prune:macs=0.25 + least_squares + train:epochs=2",
    "rewritten": "rewrite + distill:epochs=2",
    "nearly_uncut": "prune:macs=0.98 + distill:epochs=2",
    "sparse": "sparsify:epochs=2",
    "sparse_then_half": "sparsify:epochs=2 + prune:macs=0.5 + least_squares + distill:epochs=2",
}
"""Name → steps. `sparsify` keeps its last epoch: its purpose is small scales."""


def rows_of(weights: Path, limit: int, steps: str) -> dict[str, Any]:
    """Run a chain; return top-1 after every step, and the learning rate that each chose."""
    with TemporaryDirectory() as root:
        recipe = recipe_from({
            "network": {"model": "resnet20", "weights": str(weights)}, "data": {"name": "cifar10", "limit": limit},
            "steps": steps_from_line(steps), "deterministic": True, "latency_seconds": 0.1, "out": str(Path(root) / "run"),
        })  # fmt: skip
        report = run(recipe).report
        done = [folder.read_done(path) for path in sorted((Path(root) / "run").glob(f"*/{folder.DONE}"))]
    assert isinstance(report, Report)
    return {"steps": steps, "images": report.images, "rows": [_row(one) for one in done]}


def _row(done: dict[str, Any]) -> dict[str, Any]:
    texts = [block["text"] for section in done["sections"] for block in section["blocks"] if block["kind"] == "text"]
    said = [text for text in texts if "learning rate" in text or text.startswith("Kept")]
    return {"step": done["name"], "top1": done["metric"], "said": said}


def page(found: dict[str, dict[str, Any]]) -> str:
    """Format the table of all chains."""
    one = next(iter(found.values()))
    counts = ", ".join(f"{number:,} {part}" for part, number in one["images"].items())
    lines = [
        "# What training steps leave behind", "",
        "ResNet-20 on CIFAR-10, two epochs for each step that trains, which chooses its learning rate itself. Top-1 is on the",
        f"validation images ({counts}; n = 1 run of each chain). Every step that trains keeps the best of its start and all epochs,",
        "except `sparsify`, which keeps the last: its purpose is small scales.", "",
        "| chain | step | top-1 before, % | after, % | what it did |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for chain in found.values():
        before = chain["rows"][0]["top1"]
        for row in chain["rows"][1:]:
            name = f"`{chain['steps']}`" if row is chain["rows"][1] else ""
            said = " ".join(row["said"])
            lines.append(f"| {name} | {row['step']} | {before:.2f} | {row['top1']:.2f} | {said} |")
            before = row["top1"]
    return "\n".join([*lines, "", *environment_lines(list(found.values()))]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--limit", type=int, default=10000, help="images of each part")
    parser.add_argument("--chain", choices=CHAINS, action="append", help="only these chains")
    options = parser.parse_args()
    for name in options.chain or CHAINS:
        measured(ROWS / f"{name}.json", lambda name=name: rows_of(options.weights, options.limit, CHAINS[name]), "rows")
    found = {name: json.loads(path.read_text()) for name in CHAINS if (path := ROWS / f"{name}.json").exists()}
    (HERE / "training_keeps.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
