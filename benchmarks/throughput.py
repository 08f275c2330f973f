"""Training throughput: slimcnn's loop against a plain eager PyTorch loop, same network, same images, in turns.

Every loop runs in its own process (so that allocator state is not shared) and trains a short epoch in its turn: plain,
fit, fit with compile, plain, ... The plain loop is typical user code: NCHW float32, SGD with momentum, no probe. It uses
the same batched augmentation, so that only the loop differs.

    python benchmarks/throughput.py --threads 2
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch.nn import functional as F

import slimcnn
from slimcnn.datasets import batches
from slimcnn.files import write_text
from slimcnn.measuring import environment

HERE = Path(__file__).parent
STEPS = {"resnet20": 12, "resnet56": 6, "vgg16": 5}
BATCH = 128


def plain(network: str, data: slimcnn.Dataset, turns: Connection) -> None:
    model = slimcnn.build(network).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    epoch = 0
    while turns.recv():
        began, images = time.perf_counter(), 0
        feed = batches(
            data.train, BATCH, normalization=data.normalization, augmentation=data.augmentation, seed=0, epoch=epoch
        )
        for x, y in feed:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            loss.item()
            images += len(y)
        turns.send(images / (time.perf_counter() - began))
        epoch += 1


def ours(network: str, data: slimcnn.Dataset, turns: Connection, compiled: bool) -> None:
    training = slimcnn.Training(epochs=1000, learning_rate=0.01, compile=compiled)
    epochs = slimcnn.fit(slimcnn.build(network), data, training=training)
    while turns.recv():
        turns.send(next(epochs).images_per_second)


def worker(kind: str, network: str, threads: int, turns: Connection) -> None:
    torch.set_num_threads(threads)
    data = slimcnn.load_dataset("cifar10").limit(STEPS[network] * BATCH)
    data = replace(
        data, train=data.train.take(torch.arange(STEPS[network] * BATCH)), validation=data.validation.limit(10)
    )
    turns.send(True)
    if kind == "plain":
        plain(network, data, turns)
    else:
        ours(network, data, turns, compiled=kind == "fit, compiled")


def race(network: str, threads: int, rounds: int) -> dict[str, list[float]]:
    context = multiprocessing.get_context("spawn")
    racers = {}
    for kind in ("plain", "fit", "fit, compiled"):
        here, there = context.Pipe()
        process = context.Process(target=worker, args=(kind, network, threads, there), daemon=True)
        process.start()
        racers[kind] = here
        here.recv()
    speeds: dict[str, list[float]] = {kind: [] for kind in racers}
    for turn in range(rounds + 1):
        for kind, pipe in racers.items():
            pipe.send(True)
            speed = pipe.recv()
            if turn:  # the first turn includes warm-up, probe and compilation
                speeds[kind].append(speed)
        print(network, turn, {kind: round(found[-1]) for kind, found in speeds.items() if found}, flush=True)
    for pipe in racers.values():
        pipe.send(False)
    return speeds


def page(found: dict) -> str:
    lines = [
        "# Training throughput", "",
        "CIFAR-10 images per second, batch 128: slimcnn's `fit` against a plain eager loop (NCHW, float32, SGD), in turns,",
        f"each in its own process, {found['threads']} threads. Median of n turns (lowest to highest). `x plain` is the median over turns of the",
        "ratio to the plain loop in the same turn. The first turn (probe, compilation) is excluded.", "",
        "| network | loop | n | images/s | x plain |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for network, speeds in found["speeds"].items():
        for kind, values in speeds.items():
            ratio = statistics.median(a / b for a, b in zip(values, speeds["plain"], strict=True))
            spread = f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"
            lines.append(f"| {network} | {kind} | {len(values)} | {spread} | {ratio:.2f} |")
    lines += ["", f"Measured on: `{json.dumps(found['environment'])}`", "", "Repeat: `python benchmarks/throughput.py`"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--networks", default="resnet20,resnet56,vgg16")
    options = parser.parse_args()
    slimcnn.load_dataset("cifar10")
    # Networks not in --networks keep the numbers of an earlier run.
    path = HERE / "throughput.json"
    speeds = json.loads(path.read_text())["speeds"] if path.exists() else {}
    speeds |= {name: race(name, options.threads, options.rounds) for name in options.networks.split(",")}
    found = {"threads": options.threads, "batch": BATCH, "speeds": speeds, "environment": environment()}
    write_text(HERE / "throughput.json", json.dumps(found, indent=1) + "\n")
    write_text(HERE / "throughput.md", page(found))


if __name__ == "__main__":
    main()
