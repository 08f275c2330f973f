"""Compact networks: counts, shift against depthwise convolution, and training with an equal short budget.

    python benchmarks/compact.py --check     # about a minute, no training; exit code 1 if a figure misses its target
    python benchmarks/compact.py --times     # shift + 1x1 against depthwise + 1x1, all shapes and runtimes
    python benchmarks/compact.py             # train the networks on CIFAR-10
    python benchmarks/compact.py --latency   # time those networks
    python benchmarks/compact.py --long 30   # ShiftResNet-20 with expansion 6, 30 epochs (published: 91.07 %)
    python benchmarks/compact.py --table     # compact.md from the JSON files

Results are JSON in compact/, one file per row. Existing rows are not measured again, and an interrupted training resumes.
Times are medians of ratios of calls in turns; `--threads` sets the number of cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from rows import environment_lines, measured, meets_target
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import slimcnn
from slimcnn.datasets import load_dataset
from slimcnn.exporting import transfer
from slimcnn.files import write_text
from slimcnn.layers.shifts import ActiveShift, AddressShift, ChannelShift, GroupedShift, SparseShift
from slimcnn.models import preprocessing
from slimcnn.models.building import takes
from slimcnn.training import Training
from slimcnn.training.memory import keep_freed_memory
from slimcnn.views.zoo import installed

HERE = Path(__file__).parent
RAW = HERE / "compact"
COUNTS = [  # network, arguments, parameters, millions of MACs
    ("squeezenet1_0", {}, 1_248_424, 818.9), ("squeezenet1_1", {}, 1_235_496, 349.2),
    ("mobilenet_v1", {}, 4_231_976, 568.7), ("mobilenet_v1", {"width": 0.75}, 2_585_560, 325.4),
    ("mobilenet_v1", {"width": 0.5}, 1_331_592, 149.5), ("mobilenet_v1", {"width": 0.25}, 470_072, 41.0),
    ("mobilenet_v2", {}, 3_504_872, 300.8), ("mobilenet_v2", {"width": 0.75}, 2_636_424, 209.1),
    ("mobilenet_v2", {"width": 0.5}, 1_968_680, 97.1), ("mobilenet_v2", {"width": 1.4}, 6_108_776, 582.2),
    ("shufflenet_v1", {"width": 0.5}, 717_324, 37.6), ("shufflenet_v1", {}, 1_864_728, 137.5),
    ("shufflenet_v1", {"width": 1.5}, 3_441_168, 292.4), ("shufflenet_v1", {"width": 2}, 5_449_776, 524.0),
    ("shufflenet_v2", {"width": 0.5}, 1_366_792, 40.5), ("shufflenet_v2", {}, 2_278_604, 144.9),
    ("shufflenet_v2", {"width": 1.5}, 3_503_624, 295.8), ("shufflenet_v2", {"width": 2}, 7_393_996, 583.3),
    ("xception", {}, 22_855_952, 8357.4), ("igcv3", {}, 3_491_688, 313.0),
    ("shiftnet_a", {}, 4_187_720, 1424.3), ("shiftnet_b", {}, 1_183_000, 371.0),
    ("as_resnet_w32", {}, 901_256, 166.8), ("as_resnet_w50", {}, 1_962_950, 397.6),
    ("as_resnet_w68", {}, 3_424_460, 726.9), ("fe_net", {}, 4_229_648, 307.2),
    ("fe_net", {"width": 1.375}, 6_002_486, 563.7), ("shift_resnet20", {"expansion": 3}, 95_642, 16.4),
    ("shift_resnet56", {"expansion": 6}, 583_226, 88.8), ("shift_resnet110", {"expansion": 9}, 1_762_970, 260.2),
    ("as_net", {"expansion": 6}, 190_586, 32.2),
]  # fmt: skip
"""The papers' tables, counted by an independent program."""
FORMS: dict[str, dict] = {
    "resnet20": {}, "mobilenet_v1": {"width": 0.5}, "mobilenet_v2": {"width": 0.5}, "shufflenet_v1": {"width": 0.5},
    "shufflenet_v2": {"width": 0.5}, "squeezenet1_1": {}, "igcv3": {"width": 0.5}, "shiftnet_b": {"width": 0.5},
    "shift_resnet20": {"expansion": 3}, "as_resnet_w32": {"width": 0.5}, "as_net": {"expansion": 1},
    "fe_net": {"width": 0.5, "head": 512}, "address_net20": {},
}  # fmt: skip
"""Networks to train, of a size that a CPU can train: 5 to 90 million MACs."""
LEARNING_RATES = {"squeezenet1_1": 0.01}
"""Exceptions from 0.1: SqueezeNet has no batch norm, and stayed at 8.86 %."""
SHAPES = [(c, h) for c, h in ((32, 56), (64, 56), (64, 28), (64, 8), (128, 28), (256, 14), (512, 14), (512, 8))]


# --- checks without training ------------------------------------------------------------------------------------------


def count(name: str, arguments: dict) -> tuple[int, float]:
    model = slimcnn.build(name, **arguments).eval()
    shape = preprocessing(model).input
    assert shape is not None
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *shape))
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() / 2e6


def check(threads: int) -> bool:
    keep_freed_memory()
    torch.set_num_threads(threads)
    good = []
    for name, arguments, params, macs in COUNTS:
        found, millions = count(name, arguments)
        title = " ".join([name, *(f"{key}={value}" for key, value in arguments.items())])
        good.append(meets_target(f"{title}: {found:,} parameters, off by", abs(found - params), 0))
        good.append(meets_target(f"{title}: {millions:.1f} M MACs, off by", abs(millions - macs), 0.06))
    good += [meets_target(f"{name} in ONNX Runtime: largest difference", found, 1e-4) for name, found in exported()]
    for batch in (1, 64):
        for c, h in SHAPES:
            if c < 64:
                continue
            forward, both, _ = against_depthwise(c, h, batch, LAYOUTS["nchw"], rounds=7)
            most = 1.0 if batch == 1 else 1 / 1.5
            where = f"batch {batch}, {c} x {h} x {h}"
            good.append(meets_target(f"shift / depthwise 3x3, {where}, forward", 1 / forward["op"], most))
            good.append(meets_target(f"shift / depthwise 3x3, {where}, and backward", 1 / both["op"], most))
    return all(good)


def exported() -> list[tuple[str, float]]:
    """Return the largest difference between PyTorch and ONNX Runtime for each kind of shift layer."""
    found = []
    torch.manual_seed(0)
    for layer in (
        GroupedShift(30),
        GroupedShift(60, 5, 2),
        ActiveShift(30),
        SparseShift(30),
        AddressShift(30),
        ChannelShift(),
    ):
        x = torch.randn(2, 60 if isinstance(layer, GroupedShift) and len(layer.dy) == 60 else 30, 9, 8)
        here = layer.eval()(x).detach()
        there = transfer(layer, x, "onnxruntime")(x)
        found.append((str(layer), float((here - there).abs().max())))
    return found


# --- times ------------------------------------------------------------------------------------------------------------


def against_depthwise(
    c: int, h: int, batch: int, layouts: Sequence[torch.memory_format], rounds: int, runtimes: tuple[str, ...] = ()
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Speedup of a shift over a depthwise 3x3, alone and followed by a 1x1: forward, with backward, exported.

    With several layouts, each of the two uses the one in which it is faster.
    """
    torch.manual_seed(0)
    alone = {
        "depthwise": nn.Conv2d(c, c, 3, padding=1, groups=c, bias=False),
        "shift": GroupedShift(c, 3, order="blocks"),
    }
    pointwise = nn.Conv2d(c, c, 1, bias=False)
    forms = {"op": alone, "pair": {name: nn.Sequential(layer, pointwise) for name, layer in alone.items()}}
    x = torch.randn(batch, c, h, h)
    results = []
    for way in (forward, forward_and_backward):
        results.append({
            what: ratio({name: [way(module, x, layout) for layout in layouts] for name, module in pair.items()}, rounds)
            for what, pair in forms.items()
        })  # fmt: skip
    there = {}
    for runtime in runtimes:
        opened = {
            name: [partial(transfer(module, x, runtime, dynamic_batch=False), x)]
            for name, module in (forms["pair"] | {"slices": nn.Sequential(SlicedShift(), pointwise)}).items()
        }
        there[runtime] = ratio({name: opened[name] for name in ("depthwise", "shift")}, rounds)
        there[f"{runtime}, slices"] = ratio({"depthwise": opened["depthwise"], "shift": opened["slices"]}, rounds)
    return results[0], results[1], there


def forward(module: nn.Module, x: Tensor, layout: torch.memory_format) -> Callable[[], None]:
    module, x = deepcopy(module).to(memory_format=layout), x.contiguous(memory_format=layout)

    def run() -> None:
        with torch.inference_mode():
            module(x)

    return run


def forward_and_backward(module: nn.Module, x: Tensor, layout: torch.memory_format) -> Callable[[], None]:
    module = deepcopy(module).to(memory_format=layout)
    gradient = torch.randn_like(x).contiguous(memory_format=layout)
    needing = x.clone(memory_format=layout).requires_grad_()

    def run() -> None:
        module(needing).backward(gradient)

    return run


class SlicedShift(nn.Module):
    """An alternative export of a shift: concatenated slices of a padded image."""

    def forward(self, x: Tensor) -> Tensor:
        c, h, w = x.shape[1:]
        each, padded = c // 9, nn.functional.pad(x, (1, 1, 1, 1))
        ends = [*range(0, 9 * each, each), c]
        return torch.cat(
            [padded[:, ends[i] : ends[i + 1], i // 3 : i // 3 + h, i % 3 : i % 3 + w] for i in range(9)], 1
        )


def ratio(calls: Mapping[str, Sequence[Callable[[], object]]], rounds: int) -> float:
    """Median over rounds of depthwise time / shift time, each the minimum over its layouts; short calls are repeated within a round."""
    for call in chain(*calls.values()):
        call()
        call()
    began = time.perf_counter()
    calls["shift"][0]()
    times = max(1, int(2e-3 / max(time.perf_counter() - began, 1e-6)))
    found = []
    for _ in range(rounds):
        taken = {name: min(spent(call, times) for call in ways) for name, ways in calls.items()}
        found.append(taken["depthwise"] / taken["shift"])
    return statistics.median(found)


def spent(call: Callable[[], object], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - began


LAYOUTS = {
    "nchw": [torch.contiguous_format],
    "channels_last": [torch.channels_last],
    "each its faster": [torch.contiguous_format, torch.channels_last],
}


def times(raw: Path, threads: int) -> None:
    keep_freed_memory()  # otherwise the timings depend on which call happens to request new pages
    torch.set_num_threads(threads)
    runtimes = tuple(name for name in installed() if name != "eager")
    for batch in (1, 64):
        for c, h in SHAPES:
            for title, layouts in LAYOUTS.items():
                row = partial(times_row, c, h, batch, title, layouts, threads, runtimes if title == "nchw" else ())
                path = raw / f"times_{batch}_{c}_{h}_{title.replace(' ', '_')}.json"
                measured(path, row, "forward", "backward", "exported")


def times_row(
    c: int, h: int, batch: int, title: str, layouts: list[torch.memory_format], threads: int, runtimes: tuple[str, ...]
) -> dict:
    forward, both, there = against_depthwise(c, h, batch, layouts, 11, runtimes)
    return {"kind": "times", "batch": batch, "channels": c, "side": h, "layout": title, "threads": threads,
            "forward": forward, "backward": both, "exported": there}  # fmt: skip


# --- accuracy ---------------------------------------------------------------------------------------------------------


def trained(name: str, arguments: dict, epochs: int, state: Path, weight_decay: float = 1e-4) -> dict:
    data = load_dataset("cifar10")
    torch.manual_seed(0)
    small = {"image_size": 32} if takes(name, "image_size") else {}
    model = slimcnn.build(name, num_classes=10, **small, **arguments)
    rate = LEARNING_RATES.get(name, 0.1)
    training = Training(
        epochs=epochs, schedule="one_cycle", learning_rate=rate, weight_decay=weight_decay, precision="bf16-mixed"
    )
    began, history = time.perf_counter(), []
    for epoch in slimcnn.fit(model, data, training=training, folder=state / f"{name}_{epochs}"):
        history.append({"validation_top1": epoch.validation_metric, "seconds": epoch.seconds})
    size = slimcnn.measure(model, torch.zeros(1, 3, 32, 32))
    return {
        "kind": "trained", "network": name, "arguments": arguments, "epochs": epochs, "learning_rate": rate, "history": history,
        "top1": slimcnn.evaluate(model, data.test, data.normalization).top1, "params": size.params, "macs": size.macs,
        "minutes": (time.perf_counter() - began) / 60,
    }  # fmt: skip


def trained_long(epochs: int, state: Path) -> dict:
    """ShiftResNet-20 with expansion 6 (Wu et al. 2018, table 2: 91.07 %)."""
    return trained("shift_resnet20", {"expansion": 6}, epochs, state, weight_decay=5e-4) | {"kind": "long"}


def latencies(threads: int) -> dict:
    """Latency in milliseconds of all networks in FORMS, in turns, in every runtime."""
    models, x = {}, torch.randn(1, 3, 32, 32)
    for name, arguments in FORMS.items():
        small = {"image_size": 32} if takes(name, "image_size") else {}
        models[name] = slimcnn.build(name, num_classes=10, **small, **arguments).eval()
    found = {}
    for runtime in installed():
        ready = models
        if runtime != "eager":
            ready = {name: transfer(model, x, runtime, threads, dynamic_batch=False) for name, model in models.items()}
        spent = slimcnn.latency(ready, x, seconds=15, threads=threads)
        found[runtime] = {name: one.median_ms for name, one in spent.items()}
    return {"kind": "latency", "threads": threads, "batch": 1, "ms": found}


# --- the page ---------------------------------------------------------------------------------------------------------


def table(raw: Path) -> None:
    found = [json.loads(path.read_text()) for path in sorted(raw.glob("*.json"))]
    lines = [
        "# Compact networks",
        "",
        INTRODUCTION,
        "",
        *trained_lines(found),
        *long_lines(found),
        *times_lines(found),
        *environment_lines(found),
    ]
    notes = HERE / "compact_notes.md"
    lines += [notes.read_text()] if notes.exists() else []
    write_text(HERE / "compact.md", "\n".join(lines).rstrip() + "\n")


INTRODUCTION = """`python benchmarks/compact.py --check` verifies the counts of every row, the outputs of exported layers, and the speed of shift layers
against depthwise convolutions."""


def trained_lines(found: list[dict]) -> list[str]:
    rows = [one for one in found if one["kind"] == "trained"]
    if not rows:
        return []
    ms = next((one["ms"] for one in found if one["kind"] == "latency"), {})
    lines = ["## An equal short budget on CIFAR-10", "", BUDGET, ""]
    lines += ["| network | epochs | test top-1, % | params | MACs, M | " + "".join(f"{name}, ms | " for name in ms)]
    lines += ["|---|---|---|---|---|" + "---|" * len(ms)]
    for one in sorted(rows, key=lambda one: -one["top1"]):
        title = " ".join([one["network"], *(f"{key}={value}" for key, value in one["arguments"].items())])
        spent = "".join(f"{ms[runtime][one['network']]:.2f} | " for runtime in ms)
        lines.append(
            f"| {title} | {one['epochs']} | {one['top1']:.2f} | {one['params']:,} | {one['macs'] / 1e6:.1f} | {spent}"
        )
    return [*lines, ""]


def long_lines(found: list[dict]) -> list[str]:
    rows = [one for one in found if one["kind"] == "long"]
    if not rows:
        return []
    lines = ["## ShiftResNet-20, expansion 6, with a longer budget", "", LONG, ""]
    lines += [
        "| epochs | test top-1, % | published | params | MACs, M | minutes, one core |",
        "|---|---|---|---|---|---|",
    ]
    for one in rows:
        size = f"{one['params']:,} | {one['macs'] / 1e6:.1f}"
        lines.append(f"| {one['epochs']} | {one['top1']:.2f} | 91.07 | {size} | {one['minutes']:.0f} |")
    return [*lines, ""]


LONG = """CIFAR-10, SGD 0.1 one-cycle, batch 128, weight decay 5e-4, bf16 mixed precision, seed 0, n = 1, 45,000 training images."""


BUDGET = """Networks in their form for 32x32 images, trained from scratch: SGD 0.1 one-cycle (0.01 for SqueezeNet, which has no batch norm and learns nothing at 0.1),
batch 128, weight decay 1e-4, bf16 mixed precision, seed 0, n = 1. The test images were read once. So few epochs show how fast networks learn, not their final
accuracy. Latency: one image, all networks in turns."""


def times_lines(found: list[dict]) -> list[str]:
    rows = [one for one in found if one["kind"] == "times"]
    if not rows:
        return []
    runtimes = list(next(one["exported"] for one in rows if one["exported"]))
    lines = ["## Shift against depthwise 3x3", "", TIMES, ""]
    lines += [
        "| batch | shape | layout | forward | and backward | forward, + 1x1 | and backward, + 1x1 | "
        + "".join(f"{runtime}, + 1x1 | " for runtime in runtimes)
    ]
    lines += ["|---|---|---|---|---|---|---|" + "---|" * len(runtimes)]
    for one in sorted(
        rows, key=lambda one: (one["batch"], [*LAYOUTS].index(one["layout"]), one["channels"], -one["side"])
    ):
        shape, ways = f"{one['channels']} x {one['side']} x {one['side']}", (one["forward"], one["backward"])
        cells = [*(way["op"] for way in ways), *(way["pair"] for way in ways)]
        there = "".join(f"{one['exported'][runtime]:.2f} | " if one["exported"] else "| " for runtime in runtimes)
        lines.append(
            f"| {one['batch']} | {shape} | {one['layout']} | " + "".join(f"{cell:.2f} | " for cell in cells) + there
        )
    return [*lines, ""]


TIMES = """Speedup: median over rounds of the time of a depthwise 3x3 / the time of a grouped shift with as many channels, alone and followed by a 1x1 convolution.
"each its faster": each in the layout in which it is faster, with the input already in that layout. One thread. An exported shift is a depthwise
convolution; "slices" exports it as concatenated slices of a padded image instead."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--latency", action="store_true", help="time the networks that are trained")
    parser.add_argument("--long", type=int, metavar="EPOCHS", help="train ShiftResNet-20 with expansion 6")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--only", default="", help="comma-separated networks to train")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--state", type=Path, default=Path("runs/compact"))
    parser.add_argument("--raw", type=Path, default=RAW)
    options = parser.parse_args()
    if options.check:
        sys.exit(0 if check(options.threads) else 1)
    if options.times:
        times(options.raw, options.threads)
    elif options.latency:
        measured(options.raw / "latency.json", partial(latencies, options.threads), "ms")
    elif options.long:
        row = partial(trained_long, options.long, options.state)
        measured(options.raw / f"long_{options.long}.json", row, "top1", "minutes")
    elif not options.table:
        for name, arguments in FORMS.items():
            if not options.only or name in options.only.split(","):
                row = partial(trained, name, arguments, options.epochs, options.state)
                measured(options.raw / f"trained_{name}_{options.epochs}.json", row, "network", "top1", "minutes")
    table(options.raw)


if __name__ == "__main__":
    main()
