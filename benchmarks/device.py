"""Benefit of compression on a device: original, pruned and int8 networks in deployed runtimes.

    python benchmarks/device.py --weights resnet56_cifar10.safetensors   # ResNet-56 on CIFAR-10, everything below
    python benchmarks/device.py --weights mobilenet_v2.safetensors --alone mobilenet_v2   # another network, half of its MACs and int8
    python benchmarks/device.py --table > device.md                      # the page's tables
    python benchmarks/device.py --check                                  # parity, targets, int8; under 2 minutes

`slimcnn compress` and `slimcnn quantize` make every network in its own folder, and `slimcnn benchmark` times it. An
existing folder is resumed, and an existing row is not measured again. Ratios compare networks that were timed side by side
in one call. No labels and no training; test top-1 is measured in the runtime itself.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rows import measured, meets_target

HERE = Path(__file__).parent
RAW = HERE / "device"
RUNTIMES = "torch,torch_compile,onnxruntime,openvino,executorch"
PLANS = {
    "macs_0.5": ["--macs", "0.5"],
    "macs_0.35": ["--macs", "0.35"],
    "openvino_macs_0.5": ["--macs", "0.5", "--latency", "1.0", "--runtime", "openvino"],
    "onnxruntime_macs_0.5": ["--macs", "0.5", "--latency", "1.0", "--runtime", "onnxruntime"],
    "openvino_0.75": ["--latency", "0.75", "--runtime", "openvino"],
    "openvino_0.6": ["--latency", "0.6", "--runtime", "openvino"],
    "openvino_0.5": ["--latency", "0.5", "--runtime", "openvino"],
    "onnxruntime_0.6": ["--latency", "0.6", "--runtime", "onnxruntime"],
}
"""Name → target. openvino_macs_0.5: half of the MACs, by output error per millisecond instead of per MAC."""


def slimcnn(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "slimcnn.cli", *map(str, arguments)], check=True)


def compressed(name: str, weights: Path, runs: Path) -> Path:
    """Compress the network; return the run's folder."""
    out = runs / name
    slimcnn("compress", "--model", "resnet56", "--weights", weights, "--data", "cifar10", *PLANS[name], "--out", out)
    return out


def timed(folders: Sequence[Path], runtimes: str, batch: str, images: int | None = None) -> dict:
    """Time the networks side by side with `slimcnn benchmark`; return its JSON."""
    with tempfile.TemporaryDirectory() as out:
        limit = ["--images", images] if images else []
        slimcnn("benchmark", *folders, "--runtime", runtimes, "--batch", batch, *limit, "--out", out)
        found: dict = json.loads((Path(out) / "benchmark.json").read_text())
    return found


def evidence(weights: Path, runs: Path, names: Sequence[str]) -> None:
    for name in names:
        folder = compressed(name, weights, runs)
        report = json.loads((folder / "report.json").read_text())
        measured(
            RAW / f"{name}_plan.json",
            lambda name=name, report=report: {
                "name": name, "asked": PLANS[name], "before": report["before"], "after": report["after"],
                "steps": report["steps"], "clock": clock_of(report),
            },
        )  # fmt: skip
    folders = [runs / name for name in names]
    measured(RAW / "plans.json", lambda: {"benchmark": timed(folders, "onnxruntime,openvino", "1")})
    if "macs_0.5" in names:
        quantized(runs / "macs_0.5")
        measured(RAW / "int8.json", lambda: {"benchmark": timed([runs / "macs_0.5"], RUNTIMES, "1,64", 2000)})


def quantized(run: Path) -> None:
    if not list(run.glob("model_int8.*")):
        slimcnn("quantize", run, "--engine", "nncf", "--max-drop", "0.5", "--out", run)


def alone(name: str, checkpoint: Path, runs: Path) -> None:
    """Compress the network of a checkpoint to half of its MACs with the defaults, quantize it, and time all three."""
    run = runs / name
    slimcnn("compress", "--weights", checkpoint, "--data", "cifar10", "--macs", "0.5", "--out", run)
    quantized(run)
    report = json.loads((run / "report.json").read_text())
    sizes = {"name": name, "before": report["before"], "after": report["after"]}
    measured(RAW / f"{name}.json", lambda: sizes | {"benchmark": timed([run], RUNTIMES, "1,64", 2000)})


def clock_of(report: dict) -> list:
    """Return the plans measured for a latency target: number, MACs, predicted, measured."""
    sections = [one for one in report["sections"] if one["title"].startswith("Latency target")]
    return [row for one in sections for block in one["blocks"] if block["kind"] == "table" for row in block["rows"]]


def table() -> None:
    rows = [json.loads(path.read_text()) for path in sorted(RAW.glob("*_plan.json"))]
    print("| plan | asked | MACs | test top-1 | change | file, kB | plans timed |\n|" + "---|" * 7)
    for row in sorted(rows, key=lambda row: -row["after"]["macs"]):
        before, after = row["before"], row["after"]
        print(
            f"| {row['name']} | `{' '.join(row['asked'])}` | {after['macs'] / before['macs']:.3f} | {after['top1']:.2f} | "
            f"{after['top1'] - before['top1']:+.2f} | {after['bytes'] / 1000:.0f} | {len(row['clock']) or ''} |"
        )
    for name in ("plans", "int8", "int8_trained", "mobilenet_v2", "lite0"):
        if (path := RAW / f"{name}.json").exists():
            shown(json.loads(path.read_text()))


def shown(row: dict) -> None:
    rows = row["benchmark"]["rows"]
    print(
        "\n| network | runtime | batch | ms (quartiles) | of the original | top-1 | file, kB | memory, MB |\n|"
        + "---|" * 8
    )
    for one in rows:
        if one["latency"] is None:
            print(f"| {one['network']} | {one['runtime']} | {one['batch']} | {one['why']} | | | | |")
            continue
        time_, top1 = one["latency"], "" if one["top1"] is None else f"{one['top1']:.2f}"
        memory = "" if one["memory"] is None else f"{one['memory']['bytes'] / 1e6:.1f}"
        print(
            f"| {one['network']} | {one['runtime']} | {one['batch']} | {time_['median_ms']:.3f} "
            f"({time_['lower_ms']:.3f} to {time_['upper_ms']:.3f}) | {time_['relative']:.2f} | {top1} | "
            f"{one['bytes'] / 1000:.0f} | {memory} |"
        )


def check() -> bool:
    """Check the parity of every format, latency targets within 5 % and int8 within its drop, on a small network without downloads."""
    began = time.perf_counter()
    good = True
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        slimcnn("compress", "--model", "resnet8", "--data", "digits", "--pretrain", "8", "--macs", "0.5", "--out", run)
        files = Path(place) / "files"
        slimcnn("export", run, "--to", "onnx,openvino,executorch,torch_export,torchscript", "--out", files)
        for name, found in json.loads((files / "parity.json").read_text()).items():
            good &= meets_target(f"{name}: largest relative error", found["max_error"], 1e-4)
            good &= meets_target(f"{name}: images whose top-1 differs, %", 100 - found["agreement"], 0)
        slimcnn("quantize", run, "--engine", "nncf", "--max-drop", "1.0", "--out", files / "int8")
        for name, found in json.loads((files / "int8" / "parity.json").read_text()).items():
            if "top1" in found:
                good &= meets_target(
                    f"{name}: points of top-1 lost", found["top1"]["before"] - found["top1"]["after"], 1.0
                )
        good &= targets_are_hit()
    return meets_target("seconds", time.perf_counter() - began, 120) and good


def targets_are_hit() -> bool:
    """Check a ResNet-20 with random weights at 0.7 of its latency, in each runtime."""
    import torch

    import slimcnn as package
    from slimcnn.show import SILENT
    from slimcnn.steps.prune.clock import Clock, plan_by_clock, times_for

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = package.build("resnet20").eval()
    graph = package.trace(model, torch.zeros(1, 3, 32, 32))
    scores = package.sensitivity(model, graph, package.score(model, graph, "l2"), [torch.randn(64, 3, 32, 32)])
    good = True
    for runtime in ("onnxruntime", "openvino"):
        clock = Clock("0.7", runtime, 1, 1)
        times = times_for(clock, model, graph, None, SILENT)
        target = package.Target(macs=1.0, scope="sensitivity", min_channels=0, round_to=times.round_to)
        found = plan_by_clock(clock, target, model, graph, scores, times, SILENT)
        off = abs(found.chosen.measured_ms / found.target_ms - 1)
        good &= meets_target(f"{runtime}: measured time off the target, %", 100 * off, 5)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--weights", type=Path, help="weights of the ResNet-56, or with --alone a checkpoint of slimcnn"
    )
    parser.add_argument("--alone", metavar="NAME", help="name of the row of another network")
    parser.add_argument("--names", default=",".join(PLANS))
    parser.add_argument("--runs", type=Path, default=Path("runs/device"))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    if asked.check:
        sys.exit(0 if check() else 1)
    if asked.table:
        table()
        return
    if asked.weights is None:
        parser.error("give --weights, --table or --check")
    if asked.alone:
        alone(asked.alone, asked.weights, asked.runs)
        return
    evidence(asked.weights, asked.runs, asked.names.split(","))


if __name__ == "__main__":
    main()
