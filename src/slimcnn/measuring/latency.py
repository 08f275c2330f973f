"""How long networks take, side by side: A B A B ..., so that a busy machine slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimcnn.measuring.environment import device_name
from slimcnn.measuring.examples import Example, batch_size, run, undisturbed, with_batch

WARM_UP = 3
"""Runs of each network before the clock counts: the first ones allocate memory and choose kernels."""

LEAST = 5
"""Runs of each network at least, however slow it is."""


@dataclass(frozen=True)
class Latency:
    """The time of one call, and everything that it depends on."""

    median_ms: float
    lower_ms: float
    """A quarter of the calls were faster."""
    upper_ms: float
    """A quarter of the calls were slower."""
    relative: float
    """Median over the rounds of this network's time / the first network's time in the same round."""
    relative_lower: float
    """In a quarter of the rounds that ratio was lower ..."""
    relative_upper: float
    """... and in a quarter higher."""
    n: int
    """Timed calls."""
    batch: int
    threads: int
    runtime: str
    device: str


def latency(
    models: Mapping[str, nn.Module],
    example: Example,
    *,
    seconds: float = 4.0,
    threads: int | None = None,
    batch: int | None = None,
) -> dict[str, Latency]:
    """Time every network on the same example, in turns, for about `seconds` altogether.

    `threads` is the number of CPU threads (None: as it is now; restored afterwards), `batch` the number of samples
    (None: as in `example`). Networks run in eval mode and are as before afterwards; on an accelerator every call
    is waited for. An example that a network does not accept raises `ModelError`.

    >>> times = latency({"small": nn.Linear(8, 8), "large": nn.Linear(8, 800)}, torch.ones(1, 8), seconds=0.01)
    >>> times["small"].relative, times["large"].n >= 5, times["large"].batch
    (1.0, True, 1)
    """
    if batch is not None:
        example = with_batch(example, batch)
    size, device = batch_size(example), _device(example)
    with _threads(threads):
        used_threads = torch.get_num_threads()
        times = _rounds(list(models.values()), example, device, seconds)
    lower, median, upper = np.quantile(times, (0.25, 0.5, 0.75), axis=0)
    ratios = np.quantile(times / times[:, :1], (0.25, 0.5, 0.75), axis=0)
    return {
        name: Latency(
            median_ms=float(median[index]),
            lower_ms=float(lower[index]),
            upper_ms=float(upper[index]),
            relative=float(ratios[1, index]),
            relative_lower=float(ratios[0, index]),
            relative_upper=float(ratios[2, index]),
            n=len(times),
            batch=size,
            threads=used_threads,
            runtime="torch eager",
            device=device_name(device),
        )
        for index, name in enumerate(models)
    }


def _rounds(models: list[nn.Module], example: Example, device: torch.device, seconds: float) -> NDArray[np.float64]:
    """Milliseconds, one row for each round and one column for each network."""
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(undisturbed(model))
        for model in models:
            for _ in range(WARM_UP):
                _milliseconds(model, example, device)
        rounds: list[list[float]] = []
        end = time.perf_counter() + seconds
        while len(rounds) < LEAST or time.perf_counter() < end:
            rounds.append([_milliseconds(model, example, device) for model in models])
    return np.array(rounds).reshape(len(rounds), len(models))


def _milliseconds(model: nn.Module, example: Example, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter_ns()
    run(model, example)
    _wait(device)
    return (time.perf_counter_ns() - start) / 1e6


def _wait(device: torch.device) -> None:
    """Until an accelerator has done what it was asked; a CPU has when the call returns."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _device(example: Example) -> torch.device:
    return next(leaf.device for leaf in tree_leaves(example) if isinstance(leaf, Tensor))


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
