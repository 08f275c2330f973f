"""Measure the memory that trace, score and a verified prune of large networks take, in multiples of the network's bytes.

Every stage runs in its own process, which holds the network (and what earlier stages have made) before it begins. The
figure is the peak of resident memory (`resource.getrusage`) less what the process held at the beginning.

    python benchmarks/memory.py
"""

from __future__ import annotations

import argparse
import json
import pickle
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rows import environment_lines, measured, meets_target
from torch import nn

import slimcnn
from slimcnn.models import resolve

HERE = Path(__file__).parent
ROWS = HERE / "memory"
NETWORKS = ("wide_resnet101_2", "vgg16", "convnext_large")
TARGETS = {"trace": 1.5, "score": 2.0, "prune": 3.0}
"""Stage → multiples of the network's bytes."""


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return resolve(f"torchvision:{name}").eval()


def stage(name: str, which: str, before: Path, after: Path) -> dict[str, int]:
    """Run a stage in this process; return its memory in bytes."""
    model, example = network(name), torch.zeros(1, 3, 224, 224)
    graph, plan = pickle.loads(before.read_bytes()) if before.exists() else (None, None)
    held = 1024 * int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])
    loading = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if which == "trace":
        graph = slimcnn.trace(model, example, inexact=True)
    elif which == "score":
        scores = slimcnn.score(model, graph, "l2")
    else:
        slimcnn.prune(model, graph, plan)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if which == "score":
        plan = slimcnn.allocate(graph, scores, slimcnn.Target(pruning_ratio=0.5))
    after.write_bytes(pickle.dumps((graph, plan)))
    tensors = [*model.parameters(), *model.buffers()]
    own = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return {"network": own, "held": held, "peak_while_loading": loading, "peak": peak, "more": peak - held}


def rows_of(name: str) -> dict[str, Any]:
    """Run all stages of a network, each in a new process."""
    found = {}
    with TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        for which in TARGETS:
            line = [sys.executable, __file__, "--stage", name, which, str(made)]
            found[which] = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
    return {"name": name, "stages": found}


def page(found: list[dict[str, Any]]) -> str:
    """Format the table."""
    stages = " | ".join(f"{which} (target: {target:g})" for which, target in TARGETS.items())
    lines = [
        "# Memory of trace, score and prune", "",
        "Peak resident memory of a stage less what its process held at the beginning, in multiples of the network's own bytes.",
        "Each stage runs in a process of its own, on one image of 224 x 224: trace, score by l2, prune at pruning ratio 0.5",
        "with the equality check in float64, in which a copy of the network alone takes 2. One run each.", "",
        f"| network | MB | {stages} |", "|---" * (len(TARGETS) + 2) + "|",
    ]  # fmt: skip
    for one in found:
        own = one["stages"]["trace"]["network"]
        cells = [f"{one['stages'][which]['more'] / own:.2f}" for which in TARGETS]
        lines.append(f"| torchvision `{one['name']}` | {own / 1e6:.0f} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *environment_lines(found), "Repeat: `python benchmarks/memory.py`"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, action="append", help="only these networks")
    parser.add_argument("--stage", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        name, which, made = options.stage
        print(json.dumps(stage(name, which, Path(made), Path(made))))
        return
    for name in options.network or NETWORKS:
        measured(ROWS / f"{name}.json", lambda name=name: rows_of(name), "name")
    found = [json.loads(path.read_text()) for name in NETWORKS if (path := ROWS / f"{name}.json").exists()]
    (HERE / "memory.md").write_text(page(found), encoding="utf-8")
    good = [
        meets_target(f"{one['name']}: {which}", one["stages"][which]["more"] / one["stages"][which]["network"], target)
        for one in found
        for which, target in TARGETS.items()
    ]
    if not all(good):
        raise SystemExit("a target was missed")


if __name__ == "__main__":
    main()
