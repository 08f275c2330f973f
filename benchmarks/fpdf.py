"""FPDF: cost, exactness, and whether fitting the distribution of the norms helps.

    python benchmarks/fpdf.py --check                 # under a minute, no training; exit code 1 if a figure misses its target
    python benchmarks/fpdf.py --weights DIR           # without training: all rates, both accountings
    python benchmarks/fpdf.py --weights DIR --networks resnet20 --epochs 2 --seeds 3 [--soft]
    python benchmarks/fpdf.py --networks resnet110 --pretrain 200 --epochs 200 --seeds 3     # needs a GPU
    python benchmarks/fpdf.py --table                 # fpdf.md from the JSON files

One JSON file per run in fpdf/. Existing runs are not repeated, and an interrupted run resumes.
DIR holds NETWORK_cifar10.safetensors; a network without a file there needs --pretrain.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import slimcnn
from slimcnn import views
from slimcnn.datasets import Dataset, Normalization, batches, load_dataset
from slimcnn.files import write_text
from slimcnn.graph.copying import duplicate
from slimcnn.measuring import environment
from slimcnn.models import load_weights
from slimcnn.objectives import Objective
from slimcnn.pruning import Plan, SoftPruning, verify
from slimcnn.training import Training

HERE = Path(__file__).parent
RAW = HERE / "fpdf"
EXAMPLE = torch.zeros(1, 3, 32, 32)
CRITERIA = ("fpdf", "l2", "fpgm", "random", "fpdf:bins=1", "fpdf:fit=optimal", "fpdf:norm=1")
RATES = (0.1, 0.3, 0.5)
IMAGES = 1024
# The published weights were trained with ImageNet's mean and standard deviation.
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


# --- checks without training ----------------------------------------------------------------------------------------


def check() -> bool:
    """Print every figure and its target; return whether all targets are met."""
    began = time.perf_counter()
    good = [
        _meets_target(
            "ResNet-110, rate 0.5, scatter: share of the MACs cut, %", 100 * _share_cut("resnet110"), 62.83, 0.005
        ),
        _meets_target(
            "largest KS * m over the layers of ResNet-110 (a kept norm in each quantile: at most 1)", _ks(), 1.0
        ),
        *(
            _meets_target(f"ResNet-56, {accounting}: error of prune against mask, float64", _error(accounting), 1e-9)
            for accounting in ("inner", "scatter")
        ),
        _meets_target("ResNet-56, scatter: largest difference of ONNX Runtime to PyTorch, relative", _onnx(), 1e-4),
    ]
    print(f"{time.perf_counter() - began:.0f} s")
    return all(good)


def _meets_target(what: str, found: float, target: float, within: float | None = None) -> bool:
    """Print a figure and its target: an upper limit, or a value and its tolerance."""
    good = found <= target + 1e-12 if within is None else abs(found - target) <= within
    bound = f"at most {target:g}" if within is None else f"{target:g} to two decimals"
    print(f"{'ok  ' if good else 'MISS'}  {what}: {found:.6g} (target: {bound})", flush=True)
    return good


def _random(name: str) -> nn.Module:
    """Build a network with varied weights and batch norm statistics."""
    torch.manual_seed(0)
    model = slimcnn.build(name).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.5, 0.5),
                    (module.running_mean, -0.2, 0.2),
                    (module.running_var, 0.5, 1.5),
                ):
                    tensor.uniform_(low, high)
            elif isinstance(module, nn.Conv2d):
                module.weight.mul_(torch.rand(len(module.weight), 1, 1, 1) + 0.5)
    return model


def _cut(model: nn.Module, accounting: str, criterion: str = "fpdf", rate: float = 0.5, seed: int = 0) -> tuple:
    whole = slimcnn.scatter(model, EXAMPLE) if accounting == "scatter" else model
    graph = slimcnn.trace(whole, EXAMPLE)
    target = slimcnn.Target(pruning_ratio=rate, residual=accounting)
    plan = slimcnn.allocate(graph, slimcnn.score(whole, graph, criterion, seed=seed), target)
    return whole, graph, plan


def _share_cut(name: str) -> float:
    model = slimcnn.build(name)
    whole, graph, plan = _cut(model, "scatter")
    small = slimcnn.prune(whole, graph, plan)
    return 1 - slimcnn.measure(small, EXAMPLE).macs / slimcnn.measure(model, EXAMPLE).macs


def _ks() -> float:
    model = slimcnn.scatter(_random("resnet110"), EXAMPLE)
    graph = slimcnn.trace(model, EXAMPLE)
    layers = views.norms(model, graph, ["fpdf"], slimcnn.Target(pruning_ratio=0.5, residual="scatter")).data
    return max(choice["ks"] * len(choice["kept"]) for layer in layers for choice in layer["choices"])


def _error(accounting: str) -> float:
    whole, graph, plan = _cut(_random("resnet56"), accounting)
    verdict = verify(slimcnn.mask(whole, graph, plan), slimcnn.prune(whole, graph, plan, verify=False), graph, plan)
    return verdict.error if verdict.equal else float("inf")


def _onnx() -> float:
    import onnxruntime

    whole, graph, plan = _cut(_random("resnet56"), "scatter")
    small, x = slimcnn.prune(whole, graph, plan), torch.randn(4, 3, 32, 32)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "small.onnx"
        torch.onnx.export(small, (x,), str(path), dynamo=True, input_names=["x"], verbose=False)
        (made,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
    expected = small(x).detach().numpy()
    return float(np.abs(made - expected).max() / np.abs(expected).max())


# --- accuracy -------------------------------------------------------------------------------------------------------


def finetuning(options: argparse.Namespace, seed: int) -> Training:
    """FPGM's recipe scaled to any number of epochs: 0.01, times 0.2 after 30, 60 and 80 % of them."""
    return Training(
        epochs=options.epochs, learning_rate=0.01, schedule="step", milestones=(0.3, 0.6, 0.8), factor=0.2, seed=seed,
        layout=options.layout, precision=options.precision,
    )  # fmt: skip


def original(network: str, options: argparse.Namespace, data: Dataset, seed: int) -> nn.Module:
    """Return the trained network, from a file or trained here (once per seed)."""
    torch.manual_seed(seed)
    model = slimcnn.build(network)
    path = options.weights / f"{network}_cifar10.safetensors" if options.weights else None
    if path and path.exists():
        load_weights(model, path)
        return model.eval()
    if not options.pretrain:
        raise SystemExit(f"no weights of {network} found: pass --weights DIR or --pretrain EPOCHS")
    training = Training(epochs=options.pretrain, learning_rate=0.1, schedule="step", factor=0.1, seed=seed)
    for epoch in slimcnn.fit(model, data, training=training, folder=options.state / f"{network}_{seed}"):
        print(network, seed, f"{epoch.epoch}/{epoch.epochs} {epoch.validation_metric:.2f}", flush=True)
    return model.eval()


def run(network: str, accounting: str, rate: float, criterion: str, seed: int, options: argparse.Namespace) -> dict:
    data = replace(load_dataset("cifar10", root=options.root), normalization=IMAGENET)
    model = original(network, options, data, seed)
    top1 = {"base": test_top1(model, data)}
    whole, graph, plan = _cut(model, accounting, criterion, rate, seed)
    name, began, epochs = path_of(network, accounting, rate, criterion, seed, options).stem, time.perf_counter(), []
    if options.soft:
        whole = duplicate(whole)
        soft = SoftPruning(whole, graph, plan)
        epochs = [epoch.validation_metric for epoch in train(whole, data, options, seed, name, soft.objective())]
        plan = soft.choose(zero=False)
    small = slimcnn.prune(whole, graph, plan)
    top1["cut"] = test_top1(small, data)
    slimcnn.recalibrate(small, images(data, seed))
    top1["bn"] = test_top1(small, data)
    if not options.epochs:
        small = slimcnn.prune(whole, graph, plan)
        slimcnn.least_squares(small, whole, graph, plan, images(data, seed))
        top1["least_squares"] = test_top1(small, data)
    elif not options.soft:
        epochs = [epoch.validation_metric for epoch in train(small, data, options, seed, name)]
        top1["trained"] = test_top1(small, data)
    return {
        "network": network, "accounting": accounting, "rate": rate, "criterion": criterion, "seed": seed,
        "epochs": options.epochs, "soft": options.soft, "precision": options.precision, "top1": top1, "validation": epochs,
        "macs": _macs_left(graph, plan), "seconds": time.perf_counter() - began, "environment": environment(),
    }  # fmt: skip


def train(
    model: nn.Module,
    data: Dataset,
    options: argparse.Namespace,
    seed: int,
    name: str,
    objective: Objective | None = None,
) -> Iterator:
    training = finetuning(options, seed)
    for epoch in slimcnn.fit(model, data, training=training, objective=objective, folder=options.state / name):
        print(name, f"{epoch.epoch}/{epoch.epochs}: {epoch.validation_metric:.2f}, {epoch.seconds:.0f} s", flush=True)
        yield epoch


def images(data: Dataset, seed: int) -> Iterator[Tensor]:
    feed = batches(data.train, 128, normalization=data.normalization, seed=seed)
    return (x for x, _ in islice(feed, IMAGES // 128))


def test_top1(model: nn.Module, data: Dataset) -> float:
    return slimcnn.evaluate(model, data.test, data.normalization).top1


def _macs_left(graph: slimcnn.ChannelGraph, plan: Plan) -> float:
    return graph.macs(plan.counts(graph)) / graph.macs()


def path_of(network: str, accounting: str, rate: float, criterion: str, seed: int, options: argparse.Namespace) -> Path:
    way = f"{'soft' if options.soft else 'hard'}{options.epochs}"
    criterion = criterion.replace(":", "-").replace("=", "")
    return options.raw / f"{network}_{accounting}_{rate:g}_{criterion}_{way}_{seed}.json"


# --- the page -------------------------------------------------------------------------------------------------------


def table(raw: Path) -> None:
    rows = [json.loads(path.read_text()) for path in sorted(raw.glob("*.json"))]
    lines = ["# FPDF: does fitting the distribution of the norms help?", "", INTRODUCTION, ""]
    for way in sorted({(row["network"], row["epochs"], row["soft"]) for row in rows}):
        lines += _section(*way, [row for row in rows if (row["network"], row["epochs"], row["soft"]) == way])
    places = sorted({json.dumps(row["environment"] | {"commit": ""}, sort_keys=True) for row in rows})
    commits = sorted({row["environment"]["commit"] for row in rows})
    lines += ["Measured on:", *(f"- `{place}`" for place in places), f"- commits: {', '.join(commits)}", ""]
    notes = HERE / "fpdf_notes.md"
    lines += [notes.read_text()] if notes.exists() else []
    write_text(HERE / "fpdf.md", "\n".join(lines).rstrip() + "\n")


INTRODUCTION = """CIFAR-10, test top-1 in %, published weights. `rate`: the share removed from every layer. `inner`: only channels
inside blocks; `scatter`: every layer that adds into the stream also loses its own channels. Mean ± standard deviation
over n seeds (order of the training images, draw of the calibration images, choice of `random`); a single number is one
seed. `bn`: batch norm recalibration on 1,024 images; `least squares`: layers after the cut refitted on
them. Repeat: see the docstring of fpdf.py."""


def _section(network: str, epochs: int, soft: bool, rows: list[dict]) -> list[str]:
    kind = "soft" if soft else "hard"
    last = [] if soft else ["trained"] if epochs else ["least_squares"]
    steps = ["cut", "bn", *last]
    budget = f"{epochs} epochs of {kind} training" if epochs else "no training"
    base = statistics.mean(row["top1"]["base"] for row in rows)
    lines = [
        f"## {network} ({base:.2f}), {budget}",
        "",
        f"| rate | accounting | MACs | criterion | n | {' | '.join(steps)} |",
    ]
    lines += ["|---" * (5 + len(steps)) + "|"]
    order = {name: number for number, name in enumerate(CRITERIA)}
    keys = {(row["rate"], row["accounting"], row["criterion"]) for row in rows}
    for rate, accounting, criterion in sorted(keys, key=lambda key: (key[0], key[1], order.get(key[2], 99))):
        same = [
            row for row in rows if (row["rate"], row["accounting"], row["criterion"]) == (rate, accounting, criterion)
        ]
        values = [_spread([row["top1"][step] for row in same]) for step in steps]
        macs = statistics.mean(row["macs"] for row in same)
        lines.append(f"| {rate:g} | {accounting} | {macs:.3f} | {criterion} | {len(same)} | {' | '.join(values)} |")
    return [*lines, ""]


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--weights", type=Path, help="folder with NETWORK_cifar10.safetensors")
    parser.add_argument("--networks", default="resnet20,resnet56")
    parser.add_argument("--accountings", default="inner,scatter")
    parser.add_argument("--rates", default=",".join(map(str, RATES)))
    parser.add_argument("--criteria", default=";".join(CRITERIA), help="criteria, separated by semicolons")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--epochs", type=int, default=0, help="epochs of fine-tuning (with --soft: of soft filter pruning)"
    )
    parser.add_argument("--soft", action="store_true")
    parser.add_argument("--precision", default="32", choices=["32", "bf16-mixed"], help="training precision")
    parser.add_argument("--layout", default="nchw", choices=["nchw", "channels_last"])
    parser.add_argument("--pretrain", type=int, default=0)
    parser.add_argument("--root", help="folder with the data set")
    parser.add_argument("--raw", type=Path, default=RAW)
    parser.add_argument(
        "--state", type=Path, default=Path("runs/fpdf"), help="folder from which interrupted runs resume"
    )
    options = parser.parse_args()
    if options.check:
        sys.exit(0 if check() else 1)
    cases = [
        (network, accounting, float(rate), criterion, seed)
        for network in options.networks.split(",")
        for rate in options.rates.split(",")
        for accounting in options.accountings.split(",")
        for seed in range(options.seeds)
        for criterion in options.criteria.split(";")
    ]
    for number, case in enumerate([] if options.table else cases, start=1):
        path = path_of(*case, options)
        if not path.exists():
            row = run(*case, options)
            write_text(path, json.dumps(row, indent=1) + "\n")
            print(f"{number}/{len(cases)} {path.stem} {row['top1']} {row['seconds']:.0f} s", flush=True)
    table(options.raw)


if __name__ == "__main__":
    main()
