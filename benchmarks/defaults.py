"""Choose the defaults: top-1 without training by criterion, scope and residual stream, at three sizes.

CIFAR-10, published weights. The validation images decide; test top-1 is reported too. One trace and one scoring per
criterion and draw of the calibration images. Rows are appended to defaults.jsonl; existing rows are not run again.

    python benchmarks/defaults.py --weights DIR --networks resnet20,resnet56 --seeds 0,1,2
    python benchmarks/defaults.py --table
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import product
from pathlib import Path

import torch

import slimcnn
from slimcnn.datasets import Normalization, batches, load_dataset
from slimcnn.measuring import environment
from slimcnn.models import load_weights

ROWS = Path(__file__).with_suffix(".jsonl")
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KEYS = ("network", "criterion", "scope", "residual", "macs", "images", "seed")


def known() -> list[dict]:
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--networks", default="resnet20,resnet56")
    parser.add_argument("--criteria", default="l2,fpgm,reconstruction,fpdf")
    parser.add_argument("--scopes", default="sensitivity")
    parser.add_argument("--residuals", default="cut,inner")
    parser.add_argument("--macs", default="0.75,0.5,0.35")
    parser.add_argument("--images", default="1024")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if asked.table:
        table()
        return
    data = load_dataset("cifar10")
    for name, seed, images, criterion, scope in product(
        asked.networks.split(","),
        map(int, asked.seeds.split(",")),
        map(int, asked.images.split(",")),
        asked.criteria.split(","),
        asked.scopes.split(","),
    ):
        wanted = [
            {
                "network": name,
                "criterion": criterion,
                "scope": scope,
                "residual": residual,
                "macs": float(macs),
                "images": images,
                "seed": seed,
            }
            for residual, macs in product(asked.residuals.split(","), asked.macs.split(","))
        ]
        done = [{key: row[key] for key in KEYS} for row in known()]
        wanted = [one for one in wanted if one not in done]
        if not wanted:
            continue
        model = slimcnn.build(name)
        load_weights(model, asked.weights / f"{name}_cifar10.safetensors")
        model.eval()
        some = data.train.limit(images, seed=seed)

        def pairs(some=some, seed=seed):
            return batches(some, 128, normalization=IMAGENET, seed=seed)

        graph = slimcnn.trace(model, torch.zeros(1, 3, 32, 32))
        began = time.perf_counter()
        scores = slimcnn.score(model, graph, criterion, data=pairs(), seed=seed)
        if scope == "sensitivity":
            scores = slimcnn.sensitivity(model, graph, scores, (x for x, _ in pairs()))
        planning = time.perf_counter() - began
        for one in wanted:
            target = slimcnn.Target(macs=one["macs"], scope=scope, residual=one["residual"])
            try:
                plan = slimcnn.allocate(graph, scores, target)
            except slimcnn.SlimcnnError as error:
                found = {"failed": str(error)}
            else:
                small = slimcnn.prune(model, graph, plan, verify=False)
                began = time.perf_counter()
                slimcnn.least_squares(small, model, graph, plan, (x for x, _ in pairs()))
                found = {
                    "planning": round(planning, 1),
                    "solving": round(time.perf_counter() - began, 1),
                    "kept": graph.macs(plan.counts(graph)) / graph.macs(),
                    "validation": slimcnn.evaluate(small, data.validation, IMAGENET).top1,
                    "test": slimcnn.evaluate(small, data.test, IMAGENET).top1,
                }
            with ROWS.open("a") as file:
                file.write(json.dumps(one | found | {"environment": environment()}) + "\n")
            print(one, found, flush=True)


def table() -> None:
    groups: dict[tuple, list[dict]] = {}
    for row in known():
        groups.setdefault(tuple(row[key] for key in KEYS[:-1]), []).append(row)
    print("| network | MACs | images | scope | residual | criterion | validation | test | n |\n|" + "---|" * 9)
    for (network, criterion, scope, residual, macs, images), rows in sorted(
        groups.items(), key=lambda item: (item[0][0], -item[0][4], item[0][5], item[0][2], item[0][3], item[0][1])
    ):
        good = [row for row in rows if "test" in row]
        shown = [_spread([row[part] for row in good]) if good else "not reachable" for part in ("validation", "test")]
        print(
            f"| {network} | {macs} | {images} | {scope} | {residual} | {criterion} | {shown[0]} | {shown[1]} | {len(rows)} |"
        )


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
