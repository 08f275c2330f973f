"""A row of a benchmark: one network in one runtime, at one batch size and number of threads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from slimcnn.exporting import RUNTIMES, ProcessMemory
from slimcnn.measuring import Latency

TITLES: Mapping[str, str] = {"torch": "PyTorch eager", "torch_compile": "torch.compile"} | {
    name: runtime.title for name, runtime in RUNTIMES.items() if name != "torch"
}
"""Titles of all runtimes by name. `torch` runs the module itself, `torch_compile` compiles it with inductor, all others
open an exported file."""

AGAIN = 0.02
"""Ratios closer to 1 count as alike however many calls were timed; they vary as much between measurements."""

Speed = Literal["first", "faster", "slower", "alike", "not run"]


@dataclass(frozen=True)
class BenchmarkRow:
    """One network in one runtime, at one batch size and number of threads."""

    network: str
    runtime: str
    batch: int
    threads: int
    why: str = ""
    """Why it was not run, or why its metric is unknown."""
    latency: Latency | None = None
    """Latency of one call; `relative` is the ratio to `reference` in the same rounds."""
    reference: str = ""
    """The first network that ran in this runtime at this batch size and number of threads."""
    top1: float | None = None
    """Percent, in this runtime; None for other tasks than classification."""
    points: float | None = None
    """The metric minus the reference's: percentage points of top-1, or the unit of another metric."""
    points_error: float | None = None
    """Standard error of `points`, paired over the same images; None for other metrics than top-1."""
    bytes: int | None = None
    """Size of the file; for PyTorch, of the checkpoint."""
    memory: ProcessMemory | None = None
    joules: float | None = None
    """Energy per image."""
    metric: float | None = None
    """The metric of another task than classification, in its unit, in this runtime."""

    @property
    def score(self) -> float | None:
        """The metric of the task in this runtime, in its unit."""
        return self.top1 if self.metric is None else self.metric

    @property
    def noise(self) -> float:
        """Half of the 95 % interval of the median ratio to the reference: 1.57 (q3 - q1) / sqrt(n).

        (McGill, Tukey and Larsen, "Variations of box plots", 1978.) At least `AGAIN`; 0 for the reference itself.
        """
        if self.latency is None or self.network == self.reference:
            return 0.0
        time = self.latency
        return max(AGAIN, 1.57 * (time.relative_upper - time.relative_lower) / math.sqrt(time.n))

    @property
    def speed(self) -> Speed:
        """Speed relative to the reference: `alike` if the ratio differs from 1 by at most the noise."""
        if self.latency is None:
            return "not run"
        if self.network == self.reference:
            return "first"
        if abs(self.latency.relative - 1) <= self.noise:
            return "alike"
        return "faster" if self.latency.relative < 1 else "slower"
