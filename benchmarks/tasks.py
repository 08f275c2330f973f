"""Segmentation, detection and other tasks: a check of every task, networks cut, and training on CamVid and BCCD.

    python benchmarks/tasks.py --check                      # under 2 minutes; exit code 1 if a figure misses its target
    python benchmarks/tasks.py --networks                   # networks of other inputs and outputs, cut at half of their MACs
    python benchmarks/tasks.py --camvid PATH                # small U-Net on CamVid: MACs 0.6 and 0.4, three seeds
    python benchmarks/tasks.py --bccd PATH                  # small RetinaNet on BCCD, the same
    python benchmarks/tasks.py --table                      # tasks.md from the JSON files

Results are JSON in tasks/, one file per row. Existing rows are not measured again, and an interrupted training resumes: runs are
kept in `--runs`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rows import environment_lines, measured, meets_target, spread
from task_networks import block, small_detector, small_unet
from torch import Tensor, nn

import slimcnn
from slimcnn import steps
from slimcnn.datasets import Dataset, load_dataset
from slimcnn.files import write_text
from slimcnn.show import SILENT, Show
from slimcnn.tasks import task_of, tasks

HERE = Path(__file__).parent
RAW = HERE / "tasks"
SEEDS = (0, 1, 2)
SIZES = (0.6, 0.4)
FIXED: dict[str, Any] = {"layout": "nchw", "precision": "32"}
LOSSES = {"segmentation": "0.5*cross_entropy+0.5*kd:temperature=2", "detection": "cross_entropy+0.5*kd"}


# --- check ------------------------------------------------------------------------------------------------------------


def check() -> bool:
    """Run every task through train, prune, least squares, distillation and export, on squares of noise."""
    sys.path.insert(0, str(HERE.parent / "tests" / "tasks"))
    from tiny_tasks import dataset, network

    good, began = True, time.process_time()
    for entry in tasks:
        data, model = dataset(entry.name, 32), network(entry.name)
        training: dict[str, Any] = {"batch_size": 8, "optimizer": "adamw", **FIXED}
        chain = [
            steps.Train(epochs=1, learning_rate=0.01, **training), steps.Prune(macs=0.6, batches=2),
            steps.LeastSquares(images=16), steps.Distill(epochs=1, learning_rate=0.001, **training),
            steps.Export(to=("onnx",)),
        ]  # fmt: skip
        with TemporaryDirectory() as folder:
            result = slimcnn.chain(model, data, chain, out=folder, trained=False, latency_seconds=0.2, show=SILENT)
            report = result.report
            artifacts = json.loads((Path(folder) / "parity.json").read_text())
        good &= meets_target(f"{entry.name}: share of the MACs", report.after.macs / report.before.macs, 0.6)
        good &= meets_target(f"{entry.name}: prune against mask", report.verdict.error, 1e-9)
        for name, one in artifacts.items():
            if one["max_error"] is None:  # nothing is detected yet: there is nothing to compare
                print(f"      {entry.name}: {name} is {one['status']}: {one['why']}", flush=True)
                continue
            good &= meets_target(f"{entry.name}: {name} against the network", one["max_error"], 1e-3)
    # Of this process, so that other load on the machine does not count; the checks of exported files are processes of their own.
    return meets_target("processor seconds of all tasks", time.process_time() - began, 110) and good


# --- networks that are only cut ---------------------------------------------------------------------------------------


class VolumeNet(nn.Module):
    """A 3-D U-Net of two sizes, for scans."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = _volume_block(1, 16), _volume_block(16, 32)
        self.up, self.join = nn.ConvTranspose3d(32, 16, 2, 2), _volume_block(32, 16)
        self.head = nn.Conv3d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        wide = self.up(self.coarse(nn.functional.max_pool3d(fine, 2)))
        return self.head(self.join(torch.cat([fine, wide], 1)))


def _volume_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(inputs, outputs, 3, padding=1), nn.BatchNorm3d(outputs), nn.ReLU())


def speech_net() -> nn.Module:
    """A 1-D network for words in a second of sound (M5, Dai et al. 2016, arXiv 1610.00087)."""
    layers: list[nn.Module] = []
    for inputs, outputs, size, stride in ((1, 64, 80, 16), (64, 64, 3, 1), (64, 128, 3, 1), (128, 128, 3, 1)):
        layers += [nn.Conv1d(inputs, outputs, size, stride), nn.BatchNorm1d(outputs), nn.ReLU(), nn.MaxPool1d(4)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(128, 35))


class Csp(nn.Module):
    """A block in the style of YOLO: the channels are split in halves by `chunk`, one of which is refined."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.refine = block(inputs, outputs), nn.Sequential(block(outputs // 2, outputs // 2))
        self.last = block(outputs + outputs // 2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x).chunk(2, 1)
        return self.last(torch.cat([a, b, b + self.refine(b)], 1))


class YoloLike(nn.Module):
    """Three CSP blocks, a pyramid of two levels, and decoupled heads."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem, self.one = block(3, width, 2), Csp(width, 2 * width)
        self.down, self.two = block(2 * width, 4 * width, 2), Csp(4 * width, 4 * width)
        self.join = Csp(6 * width, 2 * width)
        self.heads = nn.ModuleList(nn.Conv2d(n * width, 64 + 80, 1) for n in (2, 4))

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.one(self.stem(x))
        coarse = self.two(self.down(fine))
        wide = nn.functional.interpolate(coarse, size=fine.shape[2:])
        return [self.heads[0](self.join(torch.cat([fine, wide], 1))), self.heads[1](coarse)]


def _detector(name: str, **more: Any) -> nn.Module:
    from torchvision.models import detection

    model: nn.Module = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=4, **more)
    return model


def _deeplab() -> nn.Module:
    import segmentation_models_pytorch as smp

    model: nn.Module = smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=11)
    return model


SIDES = {"min_size": 128, "max_size": 192}
IMAGE = (1, 3, 128, 128)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "U-Net (ours)": (lambda: small_unet(11), IMAGE),
    "DeepLabV3+ ResNet-18 (segmentation_models_pytorch)": (_deeplab, IMAGE),
    "YOLO-like (ours)": (YoloLike, IMAGE),
    "SSDLite MobileNetV3 (torchvision)": (lambda: _detector("ssdlite320_mobilenet_v3_large"), None),
    "RetinaNet ResNet-50 (torchvision)": (lambda: _detector("retinanet_resnet50_fpn", **SIDES), None),
    "FCOS ResNet-50 (torchvision)": (lambda: _detector("fcos_resnet50_fpn", **SIDES), None),
    "Faster R-CNN MobileNetV3 (torchvision)": (lambda: _detector("fasterrcnn_mobilenet_v3_large_fpn", **SIDES), None),
    "Keypoint R-CNN ResNet-50 (torchvision)": (lambda: _detector("keypointrcnn_resnet50_fpn", **SIDES), None),
    "3-D U-Net (ours)": (VolumeNet, (1, 1, 16, 32, 32)),
    "1-D speech network M5 (ours)": (speech_net, (1, 1, 16000)),
}
"""Name → network, and the shape of its input; None: a list with one image."""


def networks() -> None:
    """Cut every network at half of its MACs, as far as that goes, and prove the cut."""
    for name, (build, shape) in NETWORKS.items():
        measured(RAW / f"network_{_file_of(name)}.json", lambda: cut(name, build, shape), "macs", "seconds")  # noqa: B023


def cut(name: str, build: Callable[[], nn.Module], shape: Any) -> dict:
    """Trace and cut a network; `prune` raises an error unless the result equals the masked network."""
    torch.manual_seed(0)
    model = build().eval()
    example = [torch.rand(3, 128, 160)] if shape is None else torch.zeros(shape)
    began = time.perf_counter()
    graph = slimcnn.trace(model, example)
    traced = time.perf_counter() - began
    scores, least = slimcnn.score(model, graph, "l2"), 0.5
    try:
        plan = slimcnn.allocate(graph, scores, slimcnn.Target(macs=least, scope="local"))
    except slimcnn.errors.TargetUnreachable as error:
        least = math.ceil(100 * error.best["macs"] + 1) / 100
        plan = slimcnn.allocate(graph, scores, slimcnn.Target(macs=least, scope="local"))
    small = slimcnn.prune(model, graph, plan)
    before, after = slimcnn.measure(model, example), slimcnn.measure(small, example)
    reasons = sorted({f"{lock.layer or 'weights'}: {lock.reason[:80]}" for lock in graph.locked})
    return {
        "name": name, "macs": after.macs / before.macs, "params": after.params / before.params, "target": least,
        "groups": len(graph.groups), "channels": sum(group.channels for group in graph.groups),
        "locked": sum(lock.channels for lock in graph.locked), "reasons": reasons, "unproven": list(graph.unproven),
        "trace_seconds": traced,
    }  # fmt: skip


def _file_of(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name.lower()).strip("_")


# --- training ---------------------------------------------------------------------------------------------------------


EPOCHS = {"camvid": 60, "bccd": 40}


def camvid(path: str, runs: Path) -> None:
    """Train a small U-Net, then cut it to 0.6 and 0.4 of its MACs: as cut, least squares, 5 epochs of distillation, int8."""
    data = load_dataset(f"camvid:{path}")
    torch.manual_seed(0)  # the same random weights when it resumes
    training = {"epochs": EPOCHS["camvid"], "batch_size": 8, "learning_rate": 0.05, **FIXED}
    _evidence("camvid", data, small_unet(len(data.classes)), steps.Train(**training), runs)


def bccd(path: str, runs: Path) -> None:
    """Train a small RetinaNet on images of half size, then the same."""
    data = load_dataset(f"voc:{path}")
    torch.manual_seed(0)
    data = replace(data, **{part: _halved(getattr(data, part)) for part in ("train", "validation", "test")})
    training = {
        "epochs": EPOCHS["bccd"],
        "batch_size": 8,
        "optimizer": "adamw",
        "learning_rate": 0.001,
        "clip_norm": 5.0,
        **FIXED,
    }
    _evidence("bccd", data, small_detector(len(data.classes) + 1), steps.Train(**training), runs)


def _halved(images: Any) -> Any:
    pixels = nn.functional.interpolate(images.pixels, scale_factor=0.5, mode="bilinear", antialias=True)
    boxes = images.labels.clone()
    boxes[:, :, 1:] /= 2
    return type(images)(pixels, boxes)


def _evidence(name: str, data: Dataset, model: nn.Module, train: Any, runs: Path) -> None:
    show = Show(say=lambda line: print(line, flush=True))
    first = slimcnn.chain(model, data, [train], out=runs / f"{name}_trained", trained=False, show=show)
    print(f"{name}: {first.report}", flush=True)
    for macs in SIZES:
        for seed in SEEDS:
            measured(
                RAW / f"{name}_{macs}_{seed}.json",
                lambda: _recovered(name, data, first.model, macs, seed, runs, show),  # noqa: B023
                "metric", "as_cut", "least_squares", "distilled",
            )  # fmt: skip
    measured(RAW / f"{name}_openvino.json", lambda: _in_openvino(name, data, first.model, runs, show), "rows")


def _in_openvino(name: str, data: Dataset, model: nn.Module, runs: Path, show: Show) -> dict:
    """Time the trained network and the files of both sizes, float and int8, in turns; measure their metric there."""
    networks: dict[str, Any] = {"trained": model}
    for macs in SIZES:
        folder = runs / f"{name}_{macs}_{SEEDS[0]}"
        networks |= {f"{macs}": folder / "model.xml", f"{macs}, int8": folder / "model_int8.xml"}
    found = slimcnn.benchmark(
        networks, torch.zeros(1, *data.shape), runtimes=["openvino"], threads=1, batches=1, seconds=20.0, images=data.test,
        normalization=data.normalization, task=data.task, classes=len(data.classes), processes=0, show=show,
    )  # fmt: skip
    rows = [
        {
            "network": row.network, "metric": row.score, "bytes": row.bytes, "why": row.why,
            "ms": None if row.latency is None else row.latency.median_ms,
            "relative": None if row.latency is None
            else (row.latency.relative_lower, row.latency.relative, row.latency.relative_upper),
        }
        for row in found.rows
    ]  # fmt: skip
    return {"rows": rows, "metric": task_of(data).metric.name, "images": len(data.test)}


def _recovered(name: str, data: Dataset, model: nn.Module, macs: float, seed: int, runs: Path, show: Show) -> dict:
    distill = steps.Distill(
        epochs=5, batch_size=8, seed=seed, loss=LOSSES[data.task], optimizer="adamw", learning_rate=0.0005, **FIXED
    )
    chain = [
        steps.Prune(macs=macs, seed=seed), steps.LeastSquares(images=256, seed=seed), distill,
        steps.Export(to=("onnx", "openvino"), optional=True), steps.Quantize(),
    ]  # fmt: skip
    out = runs / f"{name}_{macs}_{seed}"
    report = slimcnn.chain(model, data, chain, out=out, show=show).report
    found = {step.name: step.metric for step in report.steps}
    return {
        "metric": task_of(data).metric.name, "macs": report.after.macs / report.before.macs,
        "params": report.after.params / report.before.params, "reference": report.reference_metric,
        "as_cut": found["prune"], "least_squares": found["least_squares"], "distilled": found["distill"],
        "test_before": report.before.metric, "test_after": report.after.metric,
        "ms": (report.before.latency_ms, report.after.latency_ms, report.timing.ratio.median),
        "equal": report.verdict.equal, "images": report.images, "seed": seed, "files": _files(out),
    }  # fmt: skip


def _files(folder: Path) -> dict:
    path = folder / "parity.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    keys = (
        "status", "bytes", "max_error", "metric", "test_metric", "kept_in_float", "speed", "ship", "detections",
        "detections_agree", "detections_apart",
    )  # fmt: skip
    return {name: {key: one[key] for key in keys if key in one} for name, one in known.items()}


# --- the page ---------------------------------------------------------------------------------------------------------


def table() -> None:
    """Write tasks.md from the JSON files."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RAW.glob("*.json"))}
    lines = [
        "# Tasks: networks of other inputs and outputs, cut; CamVid and BCCD", "",
        "Made by `python benchmarks/tasks.py --table` from the JSON files in [tasks/](tasks). Every cut is proven: the pruned network "
        "equals the masked one in float64.", "",
    ]  # fmt: skip
    cuts = [one for stem, one in found.items() if stem.startswith("network_")]
    if cuts:
        lines += ["## Networks, cut to half of their MACs", "",
                  "Random weights, criterion L2, the same share of every layer. Seconds on a busy machine.", "",
                  "| network | MACs left | parameters left | channels free | locked | trace, s | all, s | locked: reasons |",
                  "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for one in sorted(cuts, key=lambda one: list(NETWORKS).index(one["name"])):
        reasons = "; ".join(one["reasons"][:3]) + (
            f"; {len(one['reasons']) - 3} more" if len(one["reasons"]) > 3 else ""
        )
        lines.append(
            f"| {one['name']} | {one['macs']:.3f} | {one['params']:.3f} | {one['channels']:,} | {one['locked']:,} | "
            f"{one['trace_seconds']:.0f} | {one['seconds']:.0f} | {reasons.replace('|', '/')} |"
        )
    for name, title, how in (
        ("camvid", "CamVid, small U-Net, mean IoU in %", "367 images of 240 x 180"),
        ("bccd", "BCCD, small RetinaNet, mAP@50 in %", "205 images, scaled to 320 x 240"),
    ):
        own = [one for stem, one in found.items() if stem.startswith(f"{name}_") and "as_cut" in one]
        if own:
            how = f"{EPOCHS[name]} epochs on {how}. Least squares reads at most 256 of them. Validation images; the test images at the end."
            lines += ["", f"## {title}", "", how, "", *_sizes(own)]
        if f"{name}_openvino" in found:
            lines += ["", *_timed(found[f"{name}_openvino"])]
    lines += ["", *environment_lines(list(found.values()))]
    write_text(HERE / "tasks.md", "\n".join(lines).rstrip() + "\n")
    print(HERE / "tasks.md")


def _sizes(own: list[dict]) -> list[str]:
    lines = ["| MACs left | n | reference | as cut | least squares | + 5 epochs of distillation | test: reference → compressed |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for macs in sorted({round(one["macs"], 1) for one in own}, reverse=True):
        rows = [one for one in own if round(one["macs"], 1) == macs]
        cells = [spread([one[key] for one in rows]) for key in ("reference", "as_cut", "least_squares", "distilled")]
        tests = " → ".join(spread([one[key] for one in rows]) for key in ("test_before", "test_after"))
        lines.append(f"| {macs} | {len(rows)} | {' | '.join(cells)} | {tests} |")
    return lines


def _timed(found: dict) -> list[str]:
    """Return the table of the files in OpenVINO."""
    lines = [
        f"In OpenVINO, one thread, one image at a time, timed in turns; {found['metric']} on {found['images']:,} test images, seed 0:",
        "",
        f"| network | {found['metric']}, % | ms | × trained (quartiles) | bytes |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in found["rows"]:
        if row["ms"] is None:
            lines.append(f"| {row['network']} | {row['why']} | | | |")
            continue
        low, middle, high = row["relative"]
        lines.append(
            f"| {row['network']} | {row['metric']:.2f} | {row['ms']:.2f} | {middle:.2f} ({low:.2f} to {high:.2f}) | {row['bytes']:,} |"
        )
    return lines


def main() -> int:
    """Run what was asked for."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("check", "networks", "table"):
        asked.add_argument(f"--{name}", action="store_true")
    for name in ("camvid", "bccd"):
        asked.add_argument(f"--{name}", metavar="PATH")
    asked.add_argument("--runs", type=Path, default=Path("runs/tasks"))
    given = asked.parse_args()
    RAW.mkdir(exist_ok=True)
    if given.check:
        return 0 if check() else 1
    if given.networks:
        networks()
    if given.camvid:
        camvid(given.camvid, given.runs)
    if given.bccd:
        bccd(given.bccd, given.runs)
    if given.table or given.networks:
        table()
    return 0


if __name__ == "__main__":
    sys.exit(main())
