"""Measure which memory format and precision train fastest: device flags and rules of thumb do not predict it."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn

from slimcnn.datasets import Dataset, batches
from slimcnn.tasks import Task, task_of
from slimcnn.training.processes import best_device
from slimcnn.training.settings import Training

Layout = Literal["nchw", "channels_last"]
Precision = Literal["32", "bf16-mixed", "16-mixed"]

FORMATS: dict[str, torch.memory_format] = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
MIXED: dict[str, torch.dtype] = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}

_WORTH_LESS_PRECISION = 1.1
"""Minimum speedup of bf16 over float32: a smaller gain is not worth a mantissa of 8 bits."""


def probe(
    model: nn.Module,
    dataset: Dataset,
    training: Training,
    *,
    device: torch.device | str | None = None,
    seconds: float = 2.0,
) -> Training:
    """Replace every `"auto"` with the values that train this network fastest on this device.

    Copies of the network run forward and backward passes on a batch of real images. The candidates take turns for
    about `seconds`; the fastest single step wins, bf16 only if it is 1.1 times as fast. The batch is smaller if a
    full one would take too long. The network, its gradients and the random state do not change.

    >>> from slimcnn.datasets import load_dataset
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    >>> probe(model, load_dataset("digits"), Training(), seconds=0.1).layout in {"nchw", "channels_last"}
    True
    """
    place = torch.device(device) if device else best_device()
    candidates = _candidates(training, place)
    if len(candidates) == 1:
        best = candidates[0]
    else:
        with torch.random.fork_rng([place] if place.type == "cuda" else []):
            times = _race(model, _a_batch(dataset, training.batch_size, place), candidates, seconds, task_of(dataset))
        best = min(candidates, key=lambda c: times[c] * (1 if c[1] == "32" else _WORTH_LESS_PRECISION))
    return training.model_copy(update={"layout": best[0], "precision": best[1]})


def _candidates(training: Training, device: torch.device) -> list[tuple[Layout, Precision]]:
    layouts: list[Layout] = ["nchw", "channels_last"] if training.layout == "auto" else [training.layout]
    if training.precision != "auto":
        return [(layout, training.precision) for layout in layouts]
    precisions: list[Precision] = ["32", "bf16-mixed"] if _has_fast_bf16(device) else ["32"]
    return [(layout, precision) for precision in precisions for layout in layouts]


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = torch.cpu.get_capabilities() if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities") else {}
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))


def _a_batch(dataset: Dataset, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    x, y = next(batches(dataset.train, size, normalization=dataset.normalization, device=device))
    return x, y


def _race(
    model: nn.Module, batch: tuple[Tensor, Tensor], candidates: list[tuple[Layout, Precision]], seconds: float,
    task: Task,
) -> dict[tuple[Layout, Precision], float]:  # fmt: skip
    """Return the seconds of each candidate's fastest step."""
    rounds = 3
    # The second step of the first candidate on a few images gives the affordable batch size; its first step warms up.
    few = min(8, len(batch[0]))
    step = _stepper(model, batch[0][:few], batch[1][:few], candidates[0], task)
    step()
    affordable = seconds / (len(candidates) * (rounds + 1)) / (step() / few)
    size = max(few, min(len(batch[0]), int(affordable)))
    steps = {c: _stepper(model, batch[0][:size], batch[1][:size], c, task) for c in candidates}
    times: dict[tuple[Layout, Precision], list[float]] = {c: [] for c in candidates}
    start = time.perf_counter()
    for step in steps.values():
        step()
    while min(map(len, times.values())) < rounds or time.perf_counter() - start < seconds / 2:
        for candidate, step in steps.items():
            times[candidate].append(step())
    # The minimum: other load on the machine only makes steps slower.
    return {candidate: min(taken) for candidate, taken in times.items()}


def _stepper(
    model: nn.Module, x: Tensor, y: Tensor, candidate: tuple[Layout, Precision], task: Task
) -> Callable[[], float]:
    """Return a function that runs one training step on a copy of the network and returns its seconds."""
    layout, precision = candidate
    place = x.device
    copy = deepcopy(model).to(place, memory_format=FORMATS[layout]).train()  # type: ignore[call-overload]
    x = x.contiguous(memory_format=FORMATS[layout])
    objective = task.objective()

    def step() -> float:
        start = time.perf_counter()
        with torch.autocast(place.type, MIXED.get(precision), enabled=precision in MIXED):
            loss = objective(copy, x, y).total
        loss.backward()
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        copy.zero_grad()
        return time.perf_counter() - start

    return step
