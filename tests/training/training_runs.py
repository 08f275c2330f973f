"""Small networks and runs that several tests, and the processes that they start, have in common."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from slimcnn.datasets import Augmentation, Dataset, Images, Normalization
from slimcnn.training import Training, fit

PLAIN: dict[str, Any] = {"layout": "nchw", "precision": "32"}


def shapes(n: int = 203, classes: int = 4, seed: int = 1) -> Dataset:
    """Images of noise with one bright quarter, which is the label: easy to learn, and small."""
    generator = torch.Generator().manual_seed(seed)

    def part(size: int) -> Images:
        labels = torch.randint(classes, (size,), generator=generator)
        pixels = torch.randint(120, (size, 2, 8, 8), generator=generator, dtype=torch.uint8)
        for quarter in range(4):
            top, left = 4 * (quarter // 2), 4 * (quarter % 2)
            pixels[labels == quarter, :, top : top + 4, left : left + 4] += 90
        return Images(pixels, labels)

    names = tuple(f"quarter {i}" for i in range(classes))
    normalization = Normalization(mean=(0.3, 0.3), std=(0.2, 0.2))
    return Dataset("shapes", names, part(n), part(61), part(50), normalization, Augmentation(crop=1))


def network(*, batch_norm: bool = True, dropout: float = 0.2, width: int = 6, classes: int = 4) -> nn.Module:
    """A convolution, batch norm, dropout and a linear layer, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(2, width, 3, padding=1, bias=not batch_norm),
            nn.BatchNorm2d(width) if batch_norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * width, classes),
        )


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


RESUMED = Training(
    epochs=3, batch_size=16, learning_rate=0.05, ema=0.9, warmup_epochs=0.5, seed=3, save_every_seconds=0, **PLAIN
)


def resumable_run(folder: Path, *, killed: str = "", at: int = 0, started: Any = None) -> None:
    """Train, with dropout, batch norm and a moving average; write the final weights to `final.pt`.

    `killed` says how the process ends itself, without a goodbye: at its `at`-th write of the state, either halfway
    through the bytes ("writing") or when all are on disk but not yet in place ("replacing").
    """
    torch.set_num_threads(1)
    if killed:
        _kill_at_write(killed, at)
    model = network()

    def progress(done: int, total: int) -> None:
        if started is not None:
            started.set()
        time.sleep(0.005)  # so that a kill at a random moment falls within a run

    fabric = Fabric(accelerator="cpu", devices=1)
    history = list(fit(model, shapes(), training=RESUMED, folder=folder, fabric=fabric, progress=progress))
    final = folder / "final.tmp"
    torch.save({"weights": tensors(model), "losses": [epoch.loss for epoch in history]}, final)
    final.rename(folder / "final.pt")


def _kill_at_write(how: str, at: int) -> None:
    write_bytes, replace, calls = Path.write_bytes, os.replace, [0]

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def halfway(self: Path, data: Any) -> int:
        calls[0] += 1
        if calls[0] == at:
            write_bytes(self, bytes(data)[: len(data) // 2])
            die()
        return write_bytes(self, data)

    def not_in_place(source: Any, target: Any) -> None:
        calls[0] += 1
        if calls[0] == at:
            die()
        replace(source, target)

    if how == "writing":
        Path.write_bytes = halfway  # type: ignore[method-assign]
    else:
        os.replace = not_in_place  # type: ignore[assignment]
