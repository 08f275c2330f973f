"""Sparsity training of the networks of gfr.py, one checkpoint per way.

    python benchmarks/gfr_training.py --network vgg16 --width 0.5 --epochs 12 --way product --state DIR

A way is none (no penalty), l1 (network slimming: |gamma|, no relations), related (relations, |gamma|), random (the same,
but the gates' last weights start with PyTorch's default initialization instead of zero), sample (relations of mode sample,
|gamma|) or product (relations, |gamma| sr). An interrupted training resumes. Writes DIR/NETWORK_WAY_SEED.safetensors and its
numbers as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

import slimcnn
from slimcnn.datasets import Normalization, load_dataset
from slimcnn.files import write_text
from slimcnn.layers.relating import OPEN, relations_in
from slimcnn.measuring import environment
from slimcnn.models import load_weights
from slimcnn.objectives import SparseScales, spread
from slimcnn.training import Training

EXAMPLE = torch.zeros(1, 3, 32, 32)
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="vgg16")
    parser.add_argument("--width", type=float, default=None)
    parser.add_argument("--weights", type=Path, help="initial weights; without them, train from scratch")
    parser.add_argument("--way", default="product", choices=["none", "l1", "related", "random", "sample", "product"])
    parser.add_argument("--strength", type=float, default=1e-4)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layout", default="channels_last")
    parser.add_argument("--state", type=Path, default=Path("runs/gfr"))
    options = parser.parse_args()
    data = replace(load_dataset("cifar10"), normalization=IMAGENET)
    torch.manual_seed(options.seed)
    model = slimcnn.build(options.network, **({"width": options.width} if options.width else {})).eval()
    if options.weights:
        load_weights(model, options.weights)
    objective = None
    if options.way not in ("none", "l1"):
        model = slimcnn.insert_relations(model, EXAMPLE, mode="sample" if options.way == "sample" else "mean")
    if options.way == "random":
        for _, norm in relations_in(model):
            norm.gate[2].reset_parameters()
            torch.nn.init.constant_(norm.gate[2].bias, OPEN)
    if options.way != "none":
        penalty = "product" if options.way == "product" else "l1"
        objective = SparseScales(strength=options.strength, penalty=penalty)
    training = Training(
        epochs=options.epochs, learning_rate=options.rate, seed=options.seed, layout=options.layout,
        precision="bf16-mixed",
    )  # fmt: skip
    name = f"{options.network}{'' if options.width is None else f'_w{options.width:g}'}_{options.way}_{options.seed}"
    began, epochs = time.perf_counter(), []
    for epoch in slimcnn.fit(model, data, training=training, objective=objective, folder=options.state / name):
        found = spread(model)
        epochs.append({
            "validation_top1": epoch.validation_metric, "loss": epoch.loss, "terms": dict(epoch.terms),
            "small": found.small, "sr_mean": found.mean, "sr_std": found.std, "seconds": epoch.seconds,
        })  # fmt: skip
        print(name, epoch.epoch, {key: value for key, value in epochs[-1].items() if key != "terms"}, flush=True)
    slimcnn.save(model, options.state / f"{name}.safetensors", information=vars(options) | {
        "weights": str(options.weights), "state": "", "epochs": epochs, "training": training.model_dump(mode="json"),
        "environment": environment(),
    })  # fmt: skip
    row = vars(options) | {"weights": str(options.weights or ""), "state": "", "history": epochs}
    row |= {"seconds": time.perf_counter() - began, "environment": environment()}
    write_text(options.state / f"{name}.json", json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
