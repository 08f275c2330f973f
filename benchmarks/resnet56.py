"""ResNet-56 on CIFAR-10 at half of its MACs: FPDF, L2 and FPGM with the same recovery.

For every criterion and seed: top-1 after pruning, after batch norm recalibration, and after distillation from the
original. One JSON file per run; existing runs are not repeated.

    python benchmarks/resnet56.py --weights resnet56_cifar10.safetensors --epochs 10 --seeds 3
    python benchmarks/resnet56.py --table                     # benchmarks/resnet56.md from the JSON files
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

import slimcnn
from slimcnn.datasets import Normalization, batches, load_dataset
from slimcnn.distillation import cross_entropy, kd
from slimcnn.files import write_text
from slimcnn.measuring import environment
from slimcnn.models import load_weights
from slimcnn.recovery import recalibrate
from slimcnn.training import Training

HERE = Path(__file__).parent
RAW = HERE / "resnet56"
# The published weights were trained with ImageNet's mean and standard deviation.
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def run(
    weights: Path, criterion: str, seed: int, training: Training | None, root: str | None, residual: str, state: Path
) -> dict:
    data = load_dataset("cifar10", root=root)
    data = replace(data, normalization=IMAGENET)
    original = slimcnn.build("resnet56")
    load_weights(original, weights)
    graph = slimcnn.trace(original, torch.zeros(1, 3, 32, 32))
    scores = slimcnn.score(original, graph, criterion, seed=seed)
    plan = slimcnn.allocate(graph, scores, slimcnn.Target(macs=0.5, residual=residual))
    small = slimcnn.prune(original, graph, plan)
    found = {"base": test_top1(original, data), "cut": test_top1(small, data)}
    feed = batches(data.train, 256, normalization=IMAGENET, augmentation=data.augmentation, seed=seed)
    recalibrate(small, (x for x, _ in islice(feed, 8)))
    found["recalibrated"] = test_top1(small, data)
    epochs = []
    if training is not None:
        lesson = slimcnn.fit(
            small, data, training=training, objective=0.1 * cross_entropy() + 0.9 * kd(original), folder=state
        )
        for epoch in lesson:
            epochs.append(epoch)
            print(
                f"{criterion} {epoch.epoch}/{epoch.epochs}: {epoch.validation_metric:.2f} {epoch.seconds:.0f} s",
                flush=True,
            )
        found["distilled"] = test_top1(small, data)
    counts = plan.counts(graph)
    return {
        "criterion": criterion, "seed": seed, "residual": residual, "top1": found,
        "macs": graph.macs(counts) / graph.macs(), "params": graph.params(counts) / graph.params(),
        "seconds": sum(epoch.seconds for epoch in epochs),
        "validation": [epoch.validation_metric for epoch in epochs],
        "epochs": len(epochs), "training": training.model_dump() if training else None, "environment": environment(),
    }  # fmt: skip


def test_top1(model: torch.nn.Module, data: slimcnn.Dataset) -> float:
    return slimcnn.evaluate(model, data.test, data.normalization).top1


def table() -> None:
    found = [json.loads(path.read_text()) for path in sorted(RAW.glob("*.json"))]
    groups: dict[tuple[int, str, str], list[dict]] = {}
    for row in found:
        groups.setdefault((row.get("epochs", len(row["validation"])), row["residual"], row["criterion"]), []).append(
            row
        )
    lines = [
        "# ResNet-56 on CIFAR-10 at half of its MACs",
        "",
        f"Base: {found[0]['top1']['base']:.2f} top-1 (published weights). `Target(macs=0.5)`; recovery: batch-norm",
        "recalibration on 2,048 training images, then distillation from the original (T = 4, alpha = 0.9), SGD with",
        "a cosine schedule from 0.01, batch 128, channels_last, bf16 mixed precision,",
        "45,000 training images. The 10,000 test images are used only for this table.",
        "Mean and standard deviation over n seeds; only the plan of `random` depends on the seed.",
        "",
        "| epochs | stream | criterion | n | MACs | params | cut | recalibrated | distilled | change |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (epochs, residual, criterion), rows in sorted(groups.items()):
        base = rows[0]["top1"]["base"]
        stages = [[row["top1"].get(stage) for row in rows] for stage in ("cut", "recalibrated", "distilled")]
        change = statistics.mean(stages[2]) - base if epochs else None
        stream = "kept" if residual == "auto" else residual
        lines.append(
            f"| {epochs} | {stream} | {criterion} | {len(rows)} | {rows[0]['macs']:.3f} | {rows[0]['params']:.3f} | "
            f"{' | '.join(map(spread, stages))} | {'–' if change is None else f'{change:+.2f}'} |"
        )
    places = {json.dumps(row["environment"], sort_keys=True) for row in found}
    lines += ["", "Measured on:", *(f"- `{place}`" for place in sorted(places)), "", NOTES]
    write_text(HERE / "resnet56.md", "\n".join(lines) + "\n")


NOTES = """## Conclusions

* At this pruning ratio and without training, the norm criteria keep more accuracy than FPDF, which removes large filters by design.
  Training closes most of the gap but does not reverse it. n = 1 seed: differences of a few tenths are within the seed noise.
* Pruning the channels between residual blocks like all others (`stream` = cut) costs far more accuracy at the same MACs
  than keeping them. `Target(residual="auto")` therefore keeps them.
* The learning rate was chosen among 0.004, 0.012 and 0.03 with two short epochs (10,240 images) on validation images, which the published
  weights were trained on. The ranking was clear (93.6, 93.3, 89.2 %). An earlier FPDF run of 4 epochs from 0.05 ended at 89.65 on
  the test images.
* The goal, FPDF within 0.5 points of the base after 10 epochs, is missed: it is 1.17 points below (L2: 0.84). Going from 6 to 10 epochs
  gains 0.1 to 0.2, so more epochs at this learning rate would not reach it soon. FPDF starts 15 points behind L2 after
  recalibration, because it keeps small filters and removes large ones. A better start (least squares on the layers after
  a cut) or the hundreds of epochs of the papers would help. FPGM was trained for 6 epochs.

Repeat: `python benchmarks/resnet56.py --weights FILE --criteria fpdf,l2,fpgm --epochs 6`, the same with `--epochs 10`
and with `--epochs 0 --residual cut`, then `--table`."""


def spread(values: list[float | None]) -> str:
    if None in values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--criteria", default="fpdf,l2,fpgm,random")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10, help="0: no training, only prune and recalibrate")
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--residual", default="auto", choices=["auto", "cut"])
    parser.add_argument("--root", help="folder with the data set")
    parser.add_argument("--raw", type=Path, default=RAW)
    parser.add_argument(
        "--state", type=Path, default=Path("runs/resnet56"), help="folder from which interrupted runs resume"
    )
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        return table()
    for seed in range(options.seeds):
        for criterion in options.criteria.split(","):
            path = options.raw / f"{criterion.replace(':', '-')}_{options.residual}_{options.epochs}_{seed}.json"
            if path.exists():
                continue
            # Fixed to the choice of the probe on this idle machine, so that all runs use the same layout and precision.
            training = None
            if options.epochs:
                training = Training(
                    epochs=options.epochs, learning_rate=options.learning_rate, seed=seed,
                    layout="channels_last", precision="bf16-mixed",
                )  # fmt: skip
            state = options.state / path.stem
            row = run(options.weights, criterion, seed, training, options.root, options.residual, state)
            write_text(path, json.dumps(row, indent=1) + "\n")
            print(path.name, row["top1"], f"{row['seconds']:.0f} s", flush=True)
    return None


if __name__ == "__main__":
    main()
