"""A row of a benchmark: one network in one runtime, at one batch size and number of threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from slimcnn.exporting import RUNTIMES, ProcessMemory
from slimcnn.measuring import Latency

TITLES: Mapping[str, str] = {"torch": "PyTorch eager", "torch_compile": "torch.compile"} | {
    name: runtime.title for name, runtime in RUNTIMES.items() if name != "torch"
}
"""Everything that can run a network here, by name: `torch` runs the module itself, `torch_compile` compiles it by
inductor, all others open an exported file."""

Speed = Literal["first", "faster", "slower", "alike", "not run"]


@dataclass(frozen=True)
class BenchmarkRow:
    """One network in one runtime, at one batch size and number of threads."""

    network: str
    runtime: str
    batch: int
    threads: int
    why: str = ""
    """Why it was not run, or why its top-1 is not known."""
    latency: Latency | None = None
    """Of one call; `relative` compares with `reference`, in the same rounds."""
    reference: str = ""
    """The first network that ran in this runtime at this batch size and these threads."""
    top1: float | None = None
    """Percent, in this runtime."""
    points: float | None = None
    """Top-1 minus the reference's, in percentage points."""
    points_error: float | None = None
    """Standard error of `points`: both networks answered the same images."""
    bytes: int | None = None
    """Of the file; for PyTorch of the checkpoint."""
    memory: ProcessMemory | None = None
    joules: float | None = None
    """Of one image."""

    @property
    def speed(self) -> Speed:
        """Compare with the reference: `alike` where the quartiles of the ratio lie on both sides of 1."""
        if self.latency is None:
            return "not run"
        if self.network == self.reference:
            return "first"
        if self.latency.relative_lower <= 1 <= self.latency.relative_upper:
            return "alike"
        return "faster" if self.latency.relative < 1 else "slower"
