"""Latency of networks, measured alternately (A B A B ...), so that a busy machine slows all of them equally."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimcnn.errors import ModelError
from slimcnn.measuring.environment import device_name
from slimcnn.measuring.examples import Example, batch_size, run, undisturbed, with_batch

WARM_UP = 3
"""Untimed runs of each network: the first runs allocate memory and choose kernels."""

LEAST = 5
"""Minimum number of timed runs of each network."""

MOST_THREADS = 1024
"""PyTorch's thread pool crashes the process with a million."""


@dataclass(frozen=True)
class Latency:
    """The time of one call, with the conditions of the measurement."""

    median_ms: float
    lower_ms: float
    """Lower quartile."""
    upper_ms: float
    """Upper quartile."""
    relative: float
    """Median over the rounds of this network's time / the first network's time in the same round."""
    relative_lower: float
    """Lower quartile of that ratio."""
    relative_upper: float
    """Upper quartile of that ratio."""
    n: int
    """Number of timed calls."""
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
    """Time every network on the same example, alternately, for about `seconds` in total.

    `threads` is the number of CPU threads (None: the current number; restored afterwards), `batch` the number of
    samples (None: as in `example`). Networks run in eval mode; their state is restored afterwards. On an accelerator,
    every call is synchronized. Raises `ModelError` for an example that a network
    does not accept, or more than 1,024 threads.

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
    """Return milliseconds, one row per round and one column per network."""
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
    """Wait until an accelerator has finished; CPU calls are synchronous."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _device(example: Example) -> torch.device:
    return next(leaf.device for leaf in tree_leaves(example) if isinstance(leaf, Tensor))


def check_threads(threads: int) -> None:
    """Raise `ModelError` for a number of CPU threads that PyTorch or a runtime could crash on.

    >>> check_threads(2)
    """
    if not 1 <= threads <= MOST_THREADS:
        raise ModelError(
            f"{threads:,} CPU threads: give 1 to {MOST_THREADS:,}, such as the {os.cpu_count()} cores of this machine"
        )


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if threads is not None:
        check_threads(threads)
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
