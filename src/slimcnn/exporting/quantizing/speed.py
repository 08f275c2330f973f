"""Compare the speed of int8 and float on this machine; both files are timed in turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

NOISE = 0.02
"""Relative differences up to this count as none, however many calls were timed."""
WARM_UP = 5
LEAST = 20
"""Minimum number of rounds."""


@dataclass(frozen=True)
class SpeedComparison:
    """Times of the float and the int8 file, called once each per round."""

    float_ms: tuple[float, float, float]
    """First quartile, median, third quartile."""
    int8_ms: tuple[float, float, float]
    ratio: tuple[float, float, float]
    """int8 / float in the same round: the median between the ends of its 95 % confidence interval."""
    n: int
    """Number of rounds."""
    batch: int
    threads: int
    runtime: str

    @property
    def verdict(self) -> Literal["faster", "slower", "no difference"]:
        """Whether int8 is faster or slower than float, beyond the noise."""
        low, _, high = self.ratio
        if high < 1 - NOISE:
            return "faster"
        return "slower" if low > 1 + NOISE else "no difference"

    def __str__(self) -> str:
        low, middle, high = self.ratio
        times = f"{self.int8_ms[1]:.3f} ms against {self.float_ms[1]:.3f} ms"
        said = f"{times}, ratio {middle:.2f} ({low:.2f} to {high:.2f})"
        if self.verdict == "no difference":
            return f"int8 and float take the same time here, within the noise: {said}"
        return f"int8 is {self.verdict} than float here: {said}"


def compare_speed(
    calls: Sequence[Callable[..., Any]], arrays: Sequence[Any], *, seconds: float, threads: int, runtime: str
) -> SpeedComparison:
    """Time two functions of the same arrays in turns, float first, int8 second, for about `seconds`.

    The order alternates from round to round, so that neither always finds a warm cache.
    """
    for call in calls:
        for _ in range(WARM_UP):
            call(*arrays)
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < LEAST or time.perf_counter() < end:
        order = (0, 1) if len(rounds) % 2 == 0 else (1, 0)
        times = {which: _milliseconds(calls[which], arrays) for which in order}
        rounds.append([times[0], times[1]])
    return speed_of(np.array(rounds), len(arrays[0]), threads, runtime)


def speed_of(rounds: NDArray[np.float64], batch: int, threads: int, runtime: str) -> SpeedComparison:
    """Summarize rounds (n, 2) of milliseconds, float and int8.

    The confidence interval of the median uses order statistics, so no distribution is assumed.

    >>> rounds = np.array([[1.0, 0.5 + 0.001 * i] for i in range(100)])
    >>> speed_of(rounds, 1, 1, "openvino").verdict
    'faster'
    """
    quartiles = np.quantile(rounds, (0.25, 0.5, 0.75), axis=0)
    ratios = np.sort(rounds[:, 1] / rounds[:, 0])
    n = len(ratios)
    half = 0.98 * math.sqrt(n)  # 1.96 standard deviations of a binomial count with p = 1/2
    low, high = max(int(n / 2 - half), 0), min(math.ceil(n / 2 + half), n - 1)
    first, second = (tuple(float(value) for value in quartiles[:, i]) for i in (0, 1))
    return SpeedComparison(
        float_ms=(first[0], first[1], first[2]), int8_ms=(second[0], second[1], second[2]),
        ratio=(float(ratios[low]), float(np.median(ratios)), float(ratios[high])),
        n=n, batch=batch, threads=threads, runtime=runtime,
    )  # fmt: skip


def _milliseconds(call: Callable[..., Any], arrays: Sequence[Any]) -> float:
    start = time.perf_counter_ns()
    call(*arrays)
    return (time.perf_counter_ns() - start) / 1e6
