"""What a cut across layer norms and group norms costs: two small networks, trained here, on CIFAR-10.

Channels that a norm normalizes together are locked, because the norm's statistics change with every channel that goes.
`inexact=True` cuts them all the same. Each network is cut with and without it, then refitted and tuned without labels.

    python benchmarks/inexact.py              # trains what is not trained yet, measures what has no row
    python benchmarks/inexact.py --table      # the page from the rows

Rows are JSON files in inexact/, one for each network, size and way; interrupted runs resume.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from rows import environment_lines, measured
from torch import Tensor, nn

import slimcnn
from slimcnn.datasets import Dataset
from slimcnn.errors import TargetUnreachable
from slimcnn.files import write_text
from slimcnn.running.step import Step
from slimcnn.steps import LeastSquares, Prune, Train, Tune

HERE = Path(__file__).parent
ROWS = HERE / "inexact"
EPOCHS, IMAGES = 8, 10_000
SIZES = (0.75, 0.5)
TUNED: dict[str, Any] = {"images": 5120, "epochs": 3}
WAYS: dict[str, dict[str, Any]] = {
    "exact": {},
    "inexact": {"inexact": True},
    "inexact, stream cut": {"inexact": True, "residual": "cut"},
}
"""Name → settings of the cut. By default the residual stream is spared, and ConvNeXt has all its norms there."""


class ConvNextBlock(nn.Module):
    """Depthwise 7x7, layer norm, two pointwise layers (Liu et al. 2022, arXiv 2201.03545), without layer scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.narrow(nn.functional.gelu(self.wide(y))).permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of (n, c, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    """Two stages of three blocks, 40 and 80 channels, for 32 x 32 pixels."""
    return nn.Sequential(
        nn.Conv2d(3, 40, 2, 2), ChannelNorm(40), *(ConvNextBlock(40) for _ in range(3)),
        ChannelNorm(40), nn.Conv2d(40, 80, 2, 2), *(ConvNextBlock(80) for _ in range(3)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(80), nn.Linear(80, 10),
    )  # fmt: skip


def group_norm_resnet() -> nn.Module:
    """ResNet-8 whose batch norms are group norms of four groups."""
    model = slimcnn.build("resnet8", in_channels=3, width=2.0)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.GroupNorm(4, child.num_features))
    model.architecture = None
    return model


NETWORKS = {"ConvNeXt, small (layer norm)": convnext, "ResNet-8, width 2 (group norm)": group_norm_resnet}


def trained(name: str, data: Dataset, runs: Path) -> nn.Module:
    torch.manual_seed(0)
    train = Train(epochs=EPOCHS, images=IMAGES, optimizer="adamw", learning_rate=0.002, weight_decay=0.05)
    out = runs / f"{list(NETWORKS).index(name)}_trained"
    return slimcnn.chain(NETWORKS[name](), data, [train], out=out, trained=False, latency_seconds=0.1).model


def stem(name: str, way: str, macs: float) -> str:
    return f"{list(NETWORKS).index(name)}_{way.replace(', ', '_').replace(' ', '_')}_{macs:g}"


def row(name: str, macs: float, way: str, data: Dataset, runs: Path) -> dict[str, Any]:
    """Cut the trained network and recover it; return test top-1 after each step."""
    model = trained(name, data, runs)
    chain: list[Step] = [Prune(macs=macs, criterion="l2", **WAYS[way]), LeastSquares(), Tune(**TUNED)]
    before = slimcnn.evaluate(model, data.test, data.normalization).top1
    found: dict[str, Any] = {"network": name, "asked": macs, "way": way, "test": {"train": before}}
    out = runs / stem(name, way, macs)
    for length in range(1, len(chain) + 1):
        try:
            result = slimcnn.chain(model, data, chain[:length], out=out, latency_seconds=0.1)
        except TargetUnreachable as error:
            return found | {"why": str(error)}
        found["test"][chain[length - 1].name] = slimcnn.evaluate(result.model, data.test, data.normalization).top1
        report = result.report
        found |= {"macs_left": report.after.macs / report.before.macs, "verdict": str(report.verdict)}
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Format the page."""
    lines = [
        "# Cutting across layer norms and group norms", "",
        f"Networks trained here for {EPOCHS} epochs on {IMAGES:,} images of CIFAR-10 (n = 1), cut to a share of their MACs (L2, by sensitivity), refitted by least",
        f"squares on 1,024 images and tuned for {TUNED['epochs']} epochs on {TUNED['images']:,} images, all without labels. Test top-1, %.", "",
        "The small ConvNeXt has its norms on the residual stream. A cut by sensitivity leaves the stream's channels to the end, so that these",
        "ways give the same network: the hidden layers of its blocks are enough.", "",
        "| network | MACs asked | way | MACs left | trained | as cut | least squares | tuned | change |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for one in rows:
        if "why" in one:
            lines.append(f"| {one['network']} | {one['asked']:g} | {one['way']} | refused: {one['why']} | | | | | |")
            continue
        scores = [one["test"].get(step, math.nan) for step in ("train", "prune", "least_squares", "tune")]
        cells = [*(f"{score:.2f}" for score in scores), f"{scores[-1] - scores[0]:+.2f}"]
        left = f"{one['macs_left']:.3f}"
        lines.append(f"| {one['network']} | {one['asked']:g} | {one['way']} | {left} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *environment_lines(rows), "Repeat: `python benchmarks/inexact.py`"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/inexact"))
    parser.add_argument("--only", default="", help="a part of the network's name")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    data = None if asked.table else slimcnn.load_dataset("cifar10")
    places = {
        (name, macs, way): ROWS / f"{stem(name, way, macs)}.json"
        for name in NETWORKS for macs in SIZES for way in WAYS if asked.only in name
    }  # fmt: skip
    for (name, macs, way), path in places.items():
        if data is not None:
            path.parent.mkdir(exist_ok=True)
            measured(path, lambda n=name, m=macs, w=way: row(n, m, w, data, asked.runs), "test", "macs_left", "why")
    rows = [json.loads(path.read_text()) for path in places.values() if path.exists()]
    write_text(HERE / "inexact.md", table(rows))


if __name__ == "__main__":
    main()
