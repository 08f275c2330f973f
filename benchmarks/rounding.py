"""What multiples of channels are worth in a runtime: networks at half of their MACs, whose layers keep a multiple of 1 to 16 channels.

    python benchmarks/rounding.py             # measures; writes rounding.json and rounding.md, a few minutes

Random weights: times do not depend on them. L2, the same share of every layer. Networks take turns in each runtime, one thread, batch 1.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

import slimcnn
from slimcnn.errors import TargetUnreachable
from slimcnn.files import write_text
from slimcnn.measuring import environment

HERE = Path(__file__).parent
NETWORKS = {"mobilenet_v2": {"width": 0.5, "num_classes": 10, "image_size": 32}, "resnet20": {}}
MULTIPLES = (1, 2, 4, 8, 16)
RUNTIMES = ("onnxruntime", "openvino", "executorch")


def rows() -> list[dict]:
    found = []
    for name, arguments in NETWORKS.items():
        torch.manual_seed(0)
        model, x = slimcnn.build(name, **arguments).eval(), torch.zeros(1, 3, 32, 32)
        graph = slimcnn.trace(model, x)
        scores, networks = slimcnn.score(model, graph, "l2"), {"original": model}
        for multiple in MULTIPLES:
            try:
                plan = slimcnn.allocate(graph, scores, slimcnn.Target(macs=0.5, round_to=multiple))
            except TargetUnreachable:  # layers of 16 channels
                continue
            networks[str(multiple)] = slimcnn.prune(model, graph, plan)
        whole = slimcnn.measure(model, x).macs
        result = slimcnn.benchmark(networks, x, runtimes=RUNTIMES, seconds=6.0, processes=0)
        for row in result.rows:
            macs = slimcnn.measure(networks[row.network], x).macs / whole
            found.append({
                "network": name, "multiple": row.network, "runtime": row.runtime, "macs": macs,
                "ms": row.latency.median_ms, "lower": row.latency.lower_ms, "upper": row.latency.upper_ms,
                "relative": row.latency.relative,
            })  # fmt: skip
    return found


def page(found: list[dict], where: dict) -> str:
    lines = [
        "# Multiples of channels", "",
        "Networks for 32 x 32 pixels at half of their MACs (L2, the same share of every layer, random weights), whose layers keep a multiple of",
        "so many channels (`--round-to`). Time of a call relative to the original, in turns with it; milliseconds with quartiles. One thread, batch 1.", "",
        "| network | multiple of | MACs | " + " | ".join(RUNTIMES) + " |",
        "|---|---|---|" + "---|" * len(RUNTIMES),
    ]  # fmt: skip
    for name in NETWORKS:
        for multiple in ("original", *map(str, MULTIPLES)):
            own = [one for one in found if (one["network"], one["multiple"]) == (name, multiple)]
            if not own:
                lines.append(f"| {name} | {multiple} | out of reach |" + " |" * len(RUNTIMES))
                continue
            by = {one["runtime"]: one for one in own}
            cells = [
                f"{by[r]['relative']:.2f}: {by[r]['ms']:.3f} ({by[r]['lower']:.3f} to {by[r]['upper']:.3f})"
                for r in RUNTIMES
            ]
            lines.append(f"| {name} | {multiple} | {own[0]['macs']:.3f} | {' | '.join(cells)} |")
    return (
        "\n".join([*lines, "", f"Measured on: `{json.dumps(where)}`", "", "Repeat: `python benchmarks/rounding.py`"])
        + "\n"
    )


def main() -> None:
    found = {"rows": rows(), "environment": environment()}
    write_text(HERE / "rounding.json", json.dumps(found, indent=1) + "\n")
    write_text(HERE / "rounding.md", page(found["rows"], found["environment"]))


if __name__ == "__main__":
    main()
