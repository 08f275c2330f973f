"""Pruning time: trace + score + allocate + prune, against torch-pruning 1.6.1, in one run.

Both remove half of the channels of every layer by L1 (slimcnn: `Target(pruning_ratio=0.5)`; torch-pruning:
`MagnitudePruner` with `pruning_ratio=0.5`, the classifier ignored), on fresh copies, in turns. slimcnn is timed with and
without its check that the cut is exact; torch-pruning has no such check.

    pip install torch-pruning==1.6.1
    python benchmarks/trace_speed.py
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import slimcnn
from slimcnn.files import write_text
from slimcnn.measuring import environment

HERE = Path(__file__).parent
NETWORKS = (
    "torchvision:resnet50", "torchvision:densenet121", "torchvision:mobilenet_v2", "torchvision:regnet_y_400mf",
    "torchvision:densenet201", "timm:hrnet_w18", "torchvision:efficientnet_v2_s",
)  # fmt: skip


PATIENCE = 10
"""Seconds; if one run takes longer, two turns are enough."""


def ours(model: nn.Module, example: torch.Tensor, verify: bool) -> nn.Module:
    graph = slimcnn.trace(model, example)
    plan = slimcnn.allocate(graph, slimcnn.score(model, graph, "l1"), slimcnn.Target(pruning_ratio=0.5))
    return slimcnn.prune(model, graph, plan, verify=verify)


def theirs(model: nn.Module, example: torch.Tensor) -> nn.Module:
    import torch_pruning

    classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    pruner = torch_pruning.pruner.MagnitudePruner(
        model, example, importance=torch_pruning.importance.MagnitudeImportance(p=1), pruning_ratio=0.5,
        ignored_layers=[classifier],
    )  # fmt: skip
    pruner.step()
    return model


def seconds(function: Callable[[nn.Module], nn.Module], model: nn.Module) -> tuple[float, int]:
    fresh = copy.deepcopy(model)
    began = time.perf_counter()
    small = function(fresh)
    taken = time.perf_counter() - began
    return taken, slimcnn.measure(small, torch.zeros(1, 3, 224, 224)).macs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    example = torch.zeros(1, 3, 224, 224)
    ways: dict[str, Callable[[nn.Module], nn.Module]] = {
        "slimcnn": lambda model: ours(model, example, verify=False),
        "slimcnn, verified": lambda model: ours(model, example, verify=True),
        "torch-pruning": lambda model: theirs(model, example),
    }
    times: dict[str, dict[str, list[float]]] = {}
    macs: dict[str, dict[str, float]] = {}
    for name in NETWORKS:
        model = slimcnn.resolve(name).eval()
        whole = slimcnn.measure(model, example).macs
        times[name], macs[name] = {way: [] for way in ways}, {}
        turns, slowest = options.rounds, 0.0
        while turns >= 0:
            for way, function in ways.items():
                taken, left = seconds(function, model)
                macs[name][way] = left / whole
                times[name][way].append(taken)
                slowest = max(slowest, taken)
            turns = min(turns, 2) - 1 if slowest > PATIENCE else turns - 1
        for values in times[name].values():
            del values[0]  # the first turn imports and warms up
        print(name, {way: round(statistics.median(taken), 2) for way, taken in times[name].items()}, flush=True)
    found = {"seconds": times, "macs_left": macs, "threads": torch.get_num_threads(), "environment": environment()}
    write_text(HERE / "trace_speed.json", json.dumps(found, indent=1) + "\n")
    write_text(HERE / "trace_speed.md", page(found))


def median_ratio(ways: dict[str, list[float]]) -> float:
    return statistics.median(a / b for a, b in zip(ways["slimcnn"], ways["torch-pruning"], strict=True))


def page(found: dict) -> str:
    lines = [
        "# Pruning time", "",
        "Seconds for trace + score (L1) + allocate + prune at pruning ratio 0.5, 224 x 224, in turns in one process, median of",
        f"{len(next(iter(found['seconds'].values()))['slimcnn'])} (lowest to highest; fewer if one takes longer than "
        f"{PATIENCE} s), threads: {found['threads']}. MACs",
        "left: share of the MACs in the pruned network. slimcnn's trace includes a trial cut where needed; `verified` adds the",
        "float64 check of `prune == mask`, which torch-pruning 1.6.1 does not have.", "",
        "| network | way | seconds | x torch-pruning | MACs left |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, ways in found["seconds"].items():
        for way, values in ways.items():
            ratio = statistics.median(a / b for a, b in zip(values, ways["torch-pruning"], strict=True))
            spread = f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
            lines.append(f"| {name} | {way} | {spread} | {ratio:.2f} | {found['macs_left'][name][way]:.3f} |")
    behind = [name for name, ways in found["seconds"].items() if median_ratio(ways) > 1]
    lines += [
        "",
        f"Goal: never slower than torch-pruning; {'missed on ' * bool(behind)}{', '.join(behind) or 'met on all'}.",
        "slimcnn runs the network's Python under the dispatcher, and again on a trial cut if its code asks for sizes (none of",
        "these does). torch-pruning has no trial cut; zoo.md lists the networks on which it crashes or exceeds the time limit.",
        "",
        f"Measured on: `{json.dumps(found['environment'])}`",
        "",
        "Repeat: `python benchmarks/trace_speed.py`",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
