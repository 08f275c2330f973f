"""Feature reuse: exact counts, prune == mask, ONNX, latency, and the start from a trained network's features.

Whether reuse helps, or just fewer parameters, is a study: feature_reuse_vgg9.toml.

    python benchmarks/feature_reuse.py --check           # under a minute, no training; exit code 1 if a figure misses its target
    python benchmarks/feature_reuse.py --time            # original and rewritten network in turns: eager and ONNX Runtime
    python benchmarks/feature_reuse.py --start FILE --epochs 6    # trained ResNet-20: initialize from its features, or at random
    python benchmarks/feature_reuse.py --table           # feature_reuse.md from the JSON files

Results are JSON in feature_reuse/, one file per row. Existing rows are not measured again, and an interrupted training
resumes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from concat_free import without_concatenation
from rows import measured, meets_target
from torch import Tensor, nn

import slimcnn
from slimcnn.datasets import Dataset, Normalization, batches, load_dataset
from slimcnn.files import write_text
from slimcnn.models import load_weights
from slimcnn.pruning import verify
from slimcnn.training import Training

HERE = Path(__file__).parent
RAW = HERE / "feature_reuse"
EXAMPLE = torch.zeros(1, 3, 32, 32)
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PUBLISHED = {"vgg16": 0.435, "resnet20": 0.609, "resnet50": 0.609}
"""Latency of the rewritten network as a share of the original's (from the paper's abstract)."""


# --- networks ---------------------------------------------------------------------------------------------------------


def resnet50() -> nn.Module:
    model = slimcnn.resolve("torchvision:resnet50", num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return model


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vgg16": lambda: slimcnn.build("vgg16", head="4096-4096-10"),
    "resnet20": lambda: slimcnn.build("resnet20"),
    "resnet50": resnet50,
}
COUNTS = {"vgg16": (33_642_442, 25_352_682), "resnet20": (269_722, 145_402), "resnet50": (23_520_842, 12_860_618)}

STARTS = (("reuse", 0.01), ("reuse", 0.05), ("random", 0.05), ("random", 0.1))
"""Initializations of a rewritten network, with the learning rates of their training."""


def with_numbers(model: nn.Module) -> nn.Module:
    """Randomize batch norm statistics and scales, so that no value is trivially 0 or 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.3)
    return model.eval()


# --- checks without training ------------------------------------------------------------------------------------------


def check() -> bool:
    began = time.perf_counter()
    good = [
        meets_target(f"{name}: parameters, before and after, that differ from the definition's", wrong_counts(name), 0)
        for name in COUNTS
    ]
    good += [
        meets_target(f"{name}: error of prune against mask on the rewritten network, float64", law_error(name), 1e-9)
        for name in ("vgg16", "resnet20")
    ]
    good += [
        meets_target(f"{name}: ONNX Runtime against PyTorch, rewritten, relative", onnx_error(name), 1e-4)
        for name in ("vgg16", "resnet20")
    ]
    for runtime, batch in (("eager", 64), ("onnxruntime", 64)):
        ratio = times("vgg16", runtime, batch, seconds=6)["ratio"]
        good.append(
            meets_target(
                f"vgg16, {runtime}, batch {batch}: time as a share of the original's", ratio, PUBLISHED["vgg16"]
            )
        )
    print(f"{time.perf_counter() - began:.0f} s")
    return all(good)


def wrong_counts(name: str) -> int:
    model = NETWORKS[name]()
    found = [slimcnn.measure(one, EXAMPLE).params for one in (model, slimcnn.replace(model, "feature_reuse", EXAMPLE))]
    return sum(a != b for a, b in zip(found, COUNTS[name], strict=True))


def law_error(name: str) -> float:
    small = with_numbers(slimcnn.replace(NETWORKS[name](), "feature_reuse", EXAMPLE))
    graph = slimcnn.trace(small, EXAMPLE)
    plan = slimcnn.allocate(graph, slimcnn.score(small, graph, "l2"), slimcnn.Target(pruning_ratio=0.5))
    cut = slimcnn.prune(small, graph, plan, verify=False)
    verdict = verify(slimcnn.mask(small, graph, plan), cut, graph, plan)
    return verdict.error if verdict.equal else float("inf")


def onnx_error(name: str) -> float:
    small, x = with_numbers(slimcnn.replace(NETWORKS[name](), "feature_reuse", EXAMPLE)), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = small(x).numpy()
    return float(np.abs(onnx_session(small, x)() - expected).max() / np.abs(expected).max())


# --- time -------------------------------------------------------------------------------------------------------------


def onnx_session(model: nn.Module, x: Tensor, threads: int = 1) -> Callable[[], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        path = Path(folder) / "network.onnx"
        torch.onnx.export(model, (x,), str(path), dynamo=False, input_names=["x"], opset_version=18)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x.numpy()})[0]


def times(name: str, runtime: str, batch: int, seconds: float) -> dict:
    """Time both networks in turns with one thread; report the median of the ratios of adjacent calls."""
    torch.set_num_threads(1)
    base = with_numbers(NETWORKS[name]())
    small = with_numbers(slimcnn.replace(base, "feature_reuse", EXAMPLE))
    x = torch.randn(batch, 3, 32, 32)
    if runtime == "onnxruntime":
        calls = [onnx_session(one, x) for one in (base, small)]
    else:
        calls = [eager(one, x) for one in (base, small, without_concatenation(small))]
        torch.testing.assert_close(calls[2](), calls[1](), rtol=1e-3, atol=1e-3)
    for call in calls:
        call()
    taken: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken[0]) < 5:
        for call, into in zip(calls, taken, strict=True):
            began = time.perf_counter()
            call()
            into.append(time.perf_counter() - began)
    ratios = [b / a for a, b in zip(*taken[:2], strict=True)]
    one_tensor = [c / a for a, c in zip(taken[0], taken[-1], strict=True)] if len(taken) > 2 else None
    return {
        "kind": "time", "network": name, "runtime": runtime, "batch": batch, "threads": 1, "n": len(ratios),
        "base_ms": 1e3 * statistics.median(taken[0]), "small_ms": 1e3 * statistics.median(taken[1]),
        "one_tensor": one_tensor and statistics.median(one_tensor), "ratio": statistics.median(ratios), "quartiles": statistics.quantiles(ratios, n=4)[::2],
        "macs": slimcnn.measure(small, EXAMPLE).macs / slimcnn.measure(base, EXAMPLE).macs,
    }  # fmt: skip


def eager(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.inference_mode():
            return model(x)

    return call


# --- accuracy ---------------------------------------------------------------------------------------------------------


def started(weights: Path, init: str, rate: float, epochs: int, state: Path, data: Dataset) -> dict:
    """Train a rewritten ResNet-20, initialized from the trained network's features or at random."""
    torch.set_num_threads(1)
    original = slimcnn.build("resnet20").eval()
    load_weights(original, weights)
    small = slimcnn.replace(original, "feature_reuse")
    began = time.perf_counter()
    if init != "random":
        feed = batches(data.train, 128, normalization=data.normalization, seed=0)
        slimcnn.reuse_features(small, original, (x for x, _ in islice(feed, 8)))
    spent = time.perf_counter() - began
    before = slimcnn.evaluate(small, data.test, data.normalization).top1
    training = Training(epochs=epochs, learning_rate=rate, layout="nchw", precision="bf16-mixed")
    history = [
        {"validation_top1": epoch.validation_metric, "seconds": epoch.seconds}
        for epoch in slimcnn.fit(small, data, training=training, folder=state / f"start_{init}_{rate:g}_{epochs}")
    ]
    return {
        "kind": "start", "network": "resnet20", "init": init, "rate": rate, "epochs": epochs, "images": 1024, "seconds_of_start": spent,
        "original": slimcnn.evaluate(original, data.test, data.normalization).top1, "before": before, "history": history,
        "top1": slimcnn.evaluate(small, data.test, data.normalization).top1,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--start", type=Path, help="weights of a trained ResNet-20")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--state", type=Path, default=Path("runs/feature_reuse"))
    parser.add_argument("--raw", type=Path, default=RAW)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.check:
        sys.exit(0 if check() else 1)
    raw = options.raw
    if options.time:
        for name in NETWORKS:
            for runtime in ("eager", "onnxruntime"):
                for batch in (1, 64):
                    path = raw / f"time_{name}_{runtime}_{batch}.json"
                    measured(path, partial(times, name, runtime, batch, seconds=15), "top1", "ratio")
    data = replace(load_dataset("cifar10"), normalization=IMAGENET)
    if options.start:
        for init, rate in STARTS:
            path = raw / f"start_{init}_{rate:g}_{options.epochs}.json"
            measured(
                path, partial(started, options.start, init, rate, options.epochs, options.state, data), "top1", "ratio"
            )
    table(raw)


def table(raw: Path) -> None:
    from feature_reuse_page import page

    write_text(HERE / "feature_reuse.md", page([json.loads(path.read_text()) for path in sorted(raw.glob("*.json"))]))


if __name__ == "__main__":
    main()
