"""Equal counts against equal positions: the benefit of a free choice in every group of a grouped convolution.

Small networks with grouped convolutions (ResNeXt blocks, ShuffleNet units) are trained on digits and pruned by L2 at
several pruning ratios: once with a free choice per group (as in `allocate`), once with equal offsets in all groups (as in
other libraries). Validation top-1 after batch norm recalibration, without training.

    python benchmarks/equal_counts.py
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

import slimcnn
from slimcnn.datasets import batches, load_dataset
from slimcnn.files import write_text
from slimcnn.measuring import environment

HERE = Path(__file__).parent
RATIOS = (0.25, 0.5, 0.75)


def convolution(read: int, made: int, size: int, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(read, made, size, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(made), nn.ReLU())


class Block(nn.Module):
    """A ResNeXt block: 1x1, grouped 3x3, 1x1, added to the input."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            convolution(width, width, 1), convolution(width, width, 3, groups), convolution(width, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Unit(nn.Module):
    """A ShuffleNet unit: grouped 1x1, shuffle, depthwise 3x3, grouped 1x1, added to the input."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            convolution(width, width, 1, groups), nn.ChannelShuffle(groups),
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), nn.BatchNorm2d(width),
            nn.Conv2d(width, width, 1, groups=groups, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.branch(x))


def network(block: type[nn.Module], width: int = 64, groups: int = 4) -> nn.Module:
    return nn.Sequential(
        convolution(1, width, 3), block(width, groups), nn.MaxPool2d(2), block(width, groups),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10),
    )  # fmt: skip


def tied(scores: slimcnn.Scores, graph: slimcnn.graph.ChannelGraph) -> slimcnn.Scores:
    """Average the scores of equal offsets, so that every part of a group loses the same channels."""
    values = dict(scores.values)
    for group in graph.groups:
        rows = torch.stack([torch.from_numpy(part) for part in group.parts])
        values[group.name] = values[group.name].clone()
        values[group.name][rows] = scores.values[group.name][rows].mean(dim=0).expand(rows.shape)
    return replace(scores, values=values)


def run(block: type[nn.Module], seed: int, epochs: int) -> list[dict[str, float]]:
    torch.manual_seed(seed)
    data = load_dataset("digits")
    model = network(block)
    for _ in slimcnn.fit(model, data, training=slimcnn.Training(epochs=epochs, seed=seed)):
        pass
    graph = slimcnn.trace(model, torch.zeros(1, 1, 8, 8))
    scores = slimcnn.score(model, graph, "l2")
    found = []
    parted = [group.name for group in graph.groups if len(group.parts) > 1]
    for ratio in RATIOS:
        # Only groups with several parts are pruned: elsewhere both methods choose the same channels.
        target = slimcnn.Target(per_layer=dict.fromkeys(parted, ratio))
        row = {"ratio": ratio, "base": slimcnn.evaluate(model, data.validation, data.normalization).top1}
        for way, used in (("counts", scores), ("positions", tied(scores, graph))):
            plan = slimcnn.allocate(graph, used, target)
            small = slimcnn.prune(model, graph, plan)
            feed = batches(data.train, 256, normalization=data.normalization, augmentation=data.augmentation, seed=seed)
            slimcnn.recalibrate(small, (x for x, _ in islice(feed, 8)))
            row[way] = slimcnn.evaluate(small, data.validation, data.normalization).top1
            row[f"{way} kept"] = sum(
                float(scores.values[name].sum() - scores.values[name][list(plan.removed[name])].sum())
                for name in parted
            ) / sum(float(scores.values[name].sum()) for name in parted)
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    rows = {
        name: [row for seed in range(options.seeds) for row in run(block, seed, options.epochs)]
        for name, block in (("ResNeXt blocks", Block), ("ShuffleNet units", Unit))
    }
    found = {"rows": rows, "seeds": options.seeds, "epochs": options.epochs, "environment": environment()}
    write_text(HERE / "equal_counts.json", json.dumps(found, indent=1) + "\n")
    write_text(HERE / "equal_counts.md", page(found))


def page(found: dict) -> str:
    lines = [
        "# Equal counts against equal positions", "",
        f"{__doc__.split(chr(10) + chr(10))[1]}", "",
        f"n = {found['seeds']} seeds, mean ± standard deviation. *Norm kept*: share of the sum of the filters' L2 norms that is kept.",
        "*Gain*: points of top-1, for the same seed.", "",
        "| network | removed | top-1 before | equal counts | equal positions | gain | norm kept, counts | norm kept, positions |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, rows in found["rows"].items():
        for ratio in RATIOS:
            these = [row for row in rows if row["ratio"] == ratio]
            gains = [row["counts"] - row["positions"] for row in these]
            cells = [spread([row[key] for row in these]) for key in ("base", "counts", "positions")]
            kept = [f"{statistics.mean(row[f'{way} kept'] for row in these):.3f}" for way in ("counts", "positions")]
            lines.append(f"| {name} | {ratio} | {' | '.join(cells)} | {spread(gains)} | {' | '.join(kept)} |")
    lines += [
        "",
        f"Measured on: `{json.dumps(found['environment'])}`",
        "",
        "Repeat: `python benchmarks/equal_counts.py`",
    ]
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


if __name__ == "__main__":
    main()
