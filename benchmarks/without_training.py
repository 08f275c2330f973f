"""Recovery without training: ResNet-56 on CIFAR-10 by criterion, size, recovery and scope.

Every row runs in its own process, which writes without_training/NAME.json: test top-1 after pruning, after batch norm
recalibration, and after least squares on 1,024 training images drawn with the seed (no labels), with times and peak
memory. Existing rows are not run again.

    python benchmarks/without_training.py --weights resnet56_cifar10.safetensors           # everything, about an hour
    python benchmarks/without_training.py --weights resnet56_cifar10.safetensors --epochs 3 # with fine-tuning
    python benchmarks/without_training.py --table
    python benchmarks/without_training.py --check --weights resnet20_cifar10.safetensors   # a minute; exit code 1 if below the target
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

import slimcnn
from slimcnn.datasets import Normalization, batches, load_dataset
from slimcnn.files import write_text
from slimcnn.measuring import environment
from slimcnn.models import load_weights
from slimcnn.training import Training

HERE = Path(__file__).parent
RAW = HERE / "without_training"
# The published weights were trained with ImageNet's mean and standard deviation.
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
IMAGES = 1024
SIZES = (0.75, 0.6, 0.5, 0.4)
SEEDS = (0, 1, 2)
BASE = 93.39
"""Top-1 of the ResNet-56 on the test images."""
CHECKED, ENOUGH = 0.75, 89.5
"""MACs and least top-1 of the ResNet-20 in --check."""
LOCAL = [(criterion, "local") for criterion in ("l2", "fpgm", "fpdf", "reconstruction")]
MEASURED = [("l2", "sensitivity"), ("reconstruction", "sensitivity")]


class Subject:
    """A trained network, its graph and its images."""

    def __init__(self, name: str, weights: Path, seed: int) -> None:
        self.data = load_dataset("cifar10")
        self.model = slimcnn.build(name)
        load_weights(self.model, weights)
        self.model.eval()
        self.graph = slimcnn.trace(self.model, torch.zeros(1, 3, 32, 32))
        self.seed = seed

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        some = self.data.train.limit(IMAGES, seed=self.seed)
        return batches(some, 128, normalization=IMAGENET, seed=self.seed)

    def images(self) -> Iterator[Tensor]:
        return (x for x, _ in self.pairs())

    def plan(self, criterion: str, scope: str, macs: float) -> slimcnn.Plan:
        scores = slimcnn.score(self.model, self.graph, criterion, data=self.pairs(), seed=self.seed)
        if scope == "sensitivity":
            scores = slimcnn.sensitivity(self.model, self.graph, scores, self.images())
        return slimcnn.allocate(self.graph, scores, slimcnn.Target(macs=macs, scope=scope))  # type: ignore[arg-type]

    def cut(self, plan: slimcnn.Plan) -> nn.Module:
        return slimcnn.prune(self.model, self.graph, plan, verify=False)

    def top1(self, model: nn.Module) -> float:
        return slimcnn.evaluate(model, self.data.test, IMAGENET).top1


def one(weights: Path, criterion: str, scope: str, macs: float, seed: int, free: bool) -> dict:
    """Prune once and recover by every method."""
    subject = Subject("resnet56", weights, seed)
    began = time.perf_counter()
    plan = subject.plan(criterion, scope, macs)
    seconds, top1 = {"plan": time.perf_counter() - began}, {}
    model = subject.cut(plan)
    if free:
        began = time.perf_counter()
        made = slimcnn.synthesize(subject.model, (3, 32, 32), seed=seed)
        slimcnn.least_squares(model, subject.model, subject.graph, plan, made.split(128))
        seconds["data_free"] = time.perf_counter() - began
        top1["data_free"] = subject.top1(model)
    else:
        if seed == 0:  # without recovery, the result hardly depends on the images
            top1["none"] = subject.top1(model)
        began = time.perf_counter()
        slimcnn.recalibrate(model, subject.images())
        seconds["bn"] = time.perf_counter() - began
        top1["bn"] = subject.top1(model)
        model = subject.cut(plan)
        began = time.perf_counter()
        found = slimcnn.least_squares(model, subject.model, subject.graph, plan, subject.images())
        seconds["least_squares"] = time.perf_counter() - began
        top1["least_squares"] = subject.top1(model)
        assert not found.undone
    counts = plan.counts(subject.graph)
    return {
        "criterion": criterion, "scope": scope, "target": macs, "seed": seed, "top1": top1, "seconds": seconds,
        "macs": subject.graph.macs(counts) / subject.graph.macs(),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "environment": environment(),
    }  # fmt: skip


def finetune(weights: Path, start: str, epochs: int) -> dict:
    """Fine-tune the L2 cut to half of the MACs from one start, at a small constant learning rate."""
    subject = Subject("resnet56", weights, 0)
    plan = subject.plan("l2", "local", 0.5)
    model = subject.cut(plan)
    if start == "bn":
        slimcnn.recalibrate(model, subject.images())
    if start == "least_squares":
        slimcnn.least_squares(model, subject.model, subject.graph, plan, subject.images())
    top1 = [subject.top1(model)]
    training = Training(epochs=epochs, learning_rate=0.01, schedule="step", factor=1.0, warmup_epochs=0)
    for epoch in slimcnn.fit(model, replace(subject.data, normalization=IMAGENET), training=training):
        top1.append(subject.top1(model))
        print(f"{start} {epoch.epoch}/{epochs}: {top1[-1]:.2f}", flush=True)
    return {"start": start, "top1": top1, "training": training.model_dump(), "environment": environment()}


def check(weights: Path) -> int:
    """Check the ResNet-20 at three quarters of its MACs; return 1 if top-1 is below the target."""
    subject = Subject("resnet20", weights, 0)
    began = time.perf_counter()
    plan = subject.plan("l2", "local", CHECKED)
    model = subject.cut(plan)
    slimcnn.least_squares(model, subject.model, subject.graph, plan, subject.images())
    seconds = time.perf_counter() - began
    base, found = subject.top1(subject.model), subject.top1(model)
    met = found >= ENOUGH
    print(
        f"resnet20 at {CHECKED:g} of its MACs, L2, least squares on {IMAGES} images, {seconds:.1f} s without training:"
    )
    print(f"top-1 {found:.2f} (target: >= {ENOUGH:.2f}, original {base:.2f}): {'met' if met else 'MISSED'}")
    return 0 if met else 1


def runs() -> list[list[str]]:
    """List the arguments of every process."""
    first = [[c, s, f"{m:g}", "0"] for c, s in (*LOCAL, *MEASURED) for m in SIZES]
    free = [["l2", "local", f"{m:g}", f"{seed}", "free"] for seed in SEEDS for m in SIZES]
    more = [[c, s, f"{m:g}", f"{seed}"] for seed in SEEDS[1:] for c, s in (*LOCAL, *MEASURED) for m in SIZES]
    return first + free[: len(SIZES)] + more + free[len(SIZES) :]


def everything(weights: Path) -> None:
    """Run all rows that do not exist yet."""
    for number, arguments in enumerate(runs()):
        path = RAW / f"{'_'.join(arguments)}.json"
        if not path.exists():
            print(f"{number + 1}/{len(runs())} {path.stem}", flush=True)
            subprocess.run(
                [sys.executable, __file__, "--weights", str(weights), "--one", *arguments], check=True, cwd=HERE.parent
            )


def spread(values: list[float]) -> str:
    """Format mean and standard deviation."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def table() -> str:
    """Format the page."""
    rows = [json.loads(path.read_text()) for path in sorted(RAW.glob("*.json")) if not path.stem.startswith("finetune")]
    lines = [
        "# Recovery without training",
        "",
        f"ResNet-56 on CIFAR-10 (test top-1 {BASE}), pruned and recovered without labels and without training, on {IMAGES:,}",
        "training images. Test top-1, mean ± standard deviation over draws of these images (n in brackets). Data-free uses no",
        "images: 128 images are made from batch-norm statistics. Scope local: the same share of every layer; sensitivity:",
        "shares by the measured effect of a removal on the output.",
        "",
        "| MACs | criterion | scope | as cut | bn | least squares | lost | data-free | seconds (plan + least squares) | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for macs in SIZES:
        for criterion, scope in (*LOCAL, *MEASURED):
            here = [r for r in rows if (r["criterion"], r["scope"], r["target"]) == (criterion, scope, macs)]
            ways = {way: [r["top1"][way] for r in here if way in r["top1"]] for way in ("none", "bn", "least_squares")}
            free = [r["top1"]["data_free"] for r in here if "data_free" in r["top1"]]
            if not ways["least_squares"]:
                continue
            took = [
                r["seconds"]["plan"] + r["seconds"]["least_squares"] for r in here if "least_squares" in r["seconds"]
            ]
            lost = BASE - statistics.mean(ways["least_squares"])
            cells = [f"{macs:g}", criterion, scope, *(f"{spread(v)} ({len(v)})" for v in ways.values()), f"{lost:.2f}"]
            peak = max(r["peak_mib"] for r in here)
            cells += [f"{spread(free)} ({len(free)})" if free else "", f"{statistics.median(took):.0f}", f"{peak:.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *_aims(rows), "", *_tuning(), f"Measured on: `{json.dumps(rows[0]['environment'])}`", ""]
    lines += ["Repeat: `python benchmarks/without_training.py --weights FILE`"]
    return "\n".join(lines) + "\n"


def _aims(rows: list[dict]) -> list[str]:
    lines = []
    for macs, most in ((0.75, 1.0), (0.5, 3.0)):
        ways: dict[tuple[str, str], list[float]] = {}
        for r in rows:
            if r["target"] == macs and "least_squares" in r["top1"]:
                ways.setdefault((r["criterion"], r["scope"]), []).append(r["top1"]["least_squares"])
        means = {way: BASE - statistics.mean(values) for way, values in ways.items()}
        met = [f"{criterion} {scope} ({means[criterion, scope]:.2f})" for criterion, scope in means
               if means[criterion, scope] <= most]  # fmt: skip
        lines.append(
            f"Goal at {macs:g}, at most {most:g} points lost: {'met by ' + ', '.join(met) if met else 'missed'}."
        )
    return lines


def _tuning() -> list[str]:
    found = {path.stem: json.loads(path.read_text()) for path in sorted(RAW.glob("finetune_*.json"))}
    if not found:
        return []
    lines = ["## Fine-tuning", "", "L2, local, half of the MACs, constant learning rate 0.01, test top-1 after "
             "every epoch (n = 1).", "", "| start | as it starts | by epoch |", "|---|---|---|"]  # fmt: skip
    for one_start in found.values():
        first, *later = [f"{top1:.2f}" for top1 in one_start["top1"]]
        lines.append(f"| {one_start['start']} | {first} | {', '.join(later)} |")
    tops = {row["start"]: row["top1"] for row in found.values()}
    if {"none", "bn", "least_squares"} <= tops.keys():
        goals = {"start of least squares": tops["least_squares"][0], "best of `none`": max(tops["none"])}
        for what, goal in goals.items():
            needed = ", ".join(f"{start} {_epochs_to(goal, top1)}" for start, top1 in tops.items())
            lines += ["", f"Epochs to reach the {what} ({goal:.2f}): {needed}."]
    return [*lines, ""]


def _epochs_to(goal: float, top1: list[float]) -> str:
    """Return the epoch at which a curve reaches the goal; its first entry is the start."""
    return next((str(epoch) for epoch, value in enumerate(top1) if value >= goal), f"more than {len(top1) - 1}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.weights is None and not arguments.table:
        parser.error("give --weights FILE")
    if arguments.check:
        sys.exit(check(arguments.weights))
    if arguments.one:
        criterion, scope, macs, seed, *free = arguments.one
        found = one(arguments.weights, criterion, scope, float(macs), int(seed), bool(free))
        write_text(RAW / f"{'_'.join(arguments.one)}.json", json.dumps(found, indent=1) + "\n")
        return
    if arguments.epochs:
        for start in ("none", "bn", "least_squares"):
            path = RAW / f"finetune_{start}.json"
            if not path.exists():
                write_text(path, json.dumps(finetune(arguments.weights, start, arguments.epochs), indent=1) + "\n")
    elif not arguments.table:
        everything(arguments.weights)
    write_text(HERE / "without_training.md", table())


if __name__ == "__main__":
    main()
