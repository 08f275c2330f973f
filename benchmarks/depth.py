"""Measure whether pruning time grows linearly or quadratically with depth: CIFAR ResNets of 20 to 1202 layers (He et al. 2015).

Times trace + score (L1) + allocate + prune at pruning ratio 0.5, for slimcnn and torch-pruning 1.6.1, on fresh copies, each
run in its own process with one thread. Shortcuts are option B, which torch-pruning can prune; slimcnn is also timed with the
paper's option A (zeros for a shortcut). A run beyond the time limit is stopped, and that library is not tried on deeper
networks.

    pip install torch-pruning==1.6.1
    python benchmarks/depth.py
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn

import slimcnn
from slimcnn.files import write_text
from slimcnn.measuring import environment
from slimcnn.models.resnet_cifar import BasicBlock, CifarResNet

HERE = Path(__file__).parent
DEPTHS = (20, 56, 110, 164, 290, 542, 1202)
ROUNDS = 3


def resnet(depth: int, shortcut: str) -> nn.Module:
    """Build the paper's network of 6 n + 2 layers."""
    torch.manual_seed(0)
    blocks = (depth - 2) // 6
    return CifarResNet(BasicBlock, blocks, num_classes=10, in_channels=3, shortcut=shortcut, width=1.0).eval()


def ours(model: nn.Module, example: torch.Tensor) -> nn.Module:
    graph = slimcnn.trace(model, example)
    plan = slimcnn.allocate(graph, slimcnn.score(model, graph, "l1"), slimcnn.Target(pruning_ratio=0.5))
    return slimcnn.prune(model, graph, plan, verify=False)


def ours_verified(model: nn.Module, example: torch.Tensor) -> nn.Module:
    graph = slimcnn.trace(model, example)
    plan = slimcnn.allocate(graph, slimcnn.score(model, graph, "l1"), slimcnn.Target(pruning_ratio=0.5))
    return slimcnn.prune(model, graph, plan)


def theirs(model: nn.Module, example: torch.Tensor) -> nn.Module:
    import torch_pruning

    pruner = torch_pruning.pruner.MagnitudePruner(
        model, example, importance=torch_pruning.importance.MagnitudeImportance(p=1), pruning_ratio=0.5,
        ignored_layers=[model.linear],
    )  # fmt: skip
    pruner.step()
    return model


WAYS: dict[str, tuple[str, Callable[[nn.Module, torch.Tensor], nn.Module]]] = {
    "slimcnn": ("B", ours),
    "slimcnn, verified": ("B", ours_verified),
    "slimcnn, option A": ("A", ours),
    "torch-pruning": ("B", theirs),
}
"""Name → kind of shortcut, and what is timed."""


def worker(way: str, depth: int, answers: Connection) -> None:
    """Prune a small network to warm up, then time the deep one."""
    gc.freeze()  # a collection would copy the parent's memory page by page, within the measured time
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    shortcut, cut = WAYS[way]
    example = torch.zeros(1, 3, 32, 32)
    cut(resnet(8, shortcut), example)
    model = resnet(depth, shortcut)
    whole = slimcnn.measure(model, example).macs
    began = time.process_time()
    small = cut(model, example)
    answers.send((time.process_time() - began, slimcnn.measure(small, example).macs / whole))


def seconds(way: str, depth: int, limit: int) -> tuple[float, float] | None:
    """Return the seconds of processor time and the share of MACs left, or None after the time limit."""
    context = multiprocessing.get_context("forkserver")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=worker, args=(way, depth, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        answer: tuple[float, float] | None = mine.recv() if mine.poll(limit) else None
    except EOFError:
        raise SystemExit(f"{way} failed at depth {depth}; its traceback is above") from None
    process.kill()
    process.join()
    return answer


def measure(limit: int) -> dict[str, Any]:
    """Run three rounds over all depths and ways in turns, so that a slow minute affects all of them."""
    times: dict[str, dict[int, list[float]]] = {way: {depth: [] for depth in DEPTHS} for way in WAYS}
    left: dict[str, dict[int, float]] = {way: {} for way in WAYS}
    ended: dict[str, int] = {}
    for _ in range(ROUNDS):
        for depth in DEPTHS:
            for way in WAYS:
                if depth >= ended.get(way, max(DEPTHS) + 1):
                    continue
                answer = seconds(way, depth, limit)
                if answer is None:
                    ended[way] = depth
                    times[way][depth] = []
                    print(f"{way:20s} {depth:5d}  no end after {limit} s", flush=True)
                    continue
                times[way][depth].append(answer[0])
                left[way][depth] = answer[1]
                print(f"{way:20s} {depth:5d}  {answer[0]:.2f} s, {answer[1]:.3f} of the MACs left", flush=True)
    return {"seconds": times, "macs_left": left, "ended": ended, "limit": limit, "environment": environment()}


def exponent(points: dict[int, float]) -> float:
    """Return the slope of log seconds over log depth: 1 is linear, 2 quadratic."""
    x, y = ([float(torch.tensor(v).log()) for v in values] for values in (points.keys(), points.values()))
    return statistics.linear_regression(x, y).slope


def page(found: dict[str, Any]) -> str:
    """Format the table of seconds, the same per layer, and the exponent of growth."""
    medians = {
        way: {int(depth): statistics.median(values) for depth, values in rows.items() if values}
        for way, rows in found["seconds"].items()
    }
    ways = list(medians)
    lines = [
        "# Pruning time against depth", "",
        "CIFAR ResNets with 6 n + 2 layers, 32 x 32: trace + score (L1) + allocate + prune at pruning ratio 0.5. Seconds of",
        f"processor time, one thread, each run in its own process, median of {ROUNDS} (lowest to highest). Shortcuts are 1 x 1",
        "convolutions (option B); with the paper's option A, zeros for new channels, torch-pruning 1.6.1 fails. `verified`",
        "adds slimcnn's check of the result in float64, which torch-pruning does not have.", "",
        f"| layers | {' | '.join(ways)} |", "|---" * (len(ways) + 1) + "|",
    ]  # fmt: skip
    for depth in DEPTHS:
        cells = [_spread(found["seconds"][way], depth) or _ended(found, way, depth) for way in ways]
        lines.append(f"| {depth} | {' | '.join(cells)} |")
    lines += ["", "The same in milliseconds per layer; constant columns mean linear growth.", ""]
    lines += [f"| layers | {' | '.join(ways)} |", "|---" * (len(ways) + 1) + "|"]
    for depth in DEPTHS:
        each = [f"{1000 * medians[way][depth] / depth:.2f}" if depth in medians[way] else "-" for way in ways]
        lines.append(f"| {depth} | {' | '.join(each)} |")
    lines += [
        "",
        f"Exponent of growth from {DEPTHS[2]} layers on (1: linear, 2: quadratic): {_exponents(medians)}.",
        "",
    ]
    lines += [f"MACs left: {_left(found)}.", "", f"Measured on: `{json.dumps(found['environment'])}`", ""]
    return "\n".join([*lines, "Repeat: `python benchmarks/depth.py`"]) + "\n"


def _spread(rows: dict[Any, list[float]], depth: int) -> str:
    values = rows.get(depth) or rows.get(str(depth)) or []
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else ""


def _ended(found: dict[str, Any], way: str, depth: int) -> str:
    return f"no end after {found['limit']} s" if found["ended"].get(way) == depth else "not tried"


def _exponents(medians: dict[str, dict[int, float]]) -> str:
    deep = {way: {d: s for d, s in rows.items() if d >= DEPTHS[2]} for way, rows in medians.items()}
    return ", ".join(f"{way} {exponent(rows):.2f}" for way, rows in deep.items() if len(rows) > 1)


def _left(found: dict[str, Any]) -> str:
    shares = {way: [round(value, 3) for value in rows.values()] for way, rows in found["macs_left"].items()}
    return ", ".join(f"{way} {min(rows)} to {max(rows)}" for way, rows in shares.items() if rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=120, help="time limit of a run, in seconds")
    parser.add_argument("--table", action="store_true", help="write the page only")
    options = parser.parse_args()
    multiprocessing.set_forkserver_preload(["__main__", "slimcnn.pruning", "torch_pruning"])
    if not options.table:
        write_text(HERE / "depth.json", json.dumps(measure(options.limit), indent=1) + "\n")
    write_text(HERE / "depth.md", page(json.loads((HERE / "depth.json").read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
