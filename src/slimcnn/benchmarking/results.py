"""What a benchmark found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from slimcnn.benchmarking.recommending import Recommendation, recommendations
from slimcnn.benchmarking.rows import BenchmarkRow


@dataclass(frozen=True)
class Benchmark:
    """All rows, and how they were measured."""

    rows: tuple[BenchmarkRow, ...]
    images: int
    """How many images top-1 is measured on; 0: on none."""
    part: str
    """Which images these are: test, validation ..."""
    max_drop: float
    """Points of top-1 that the network to ship may be below the best."""
    seconds: float
    """For timing, at each runtime, batch size and number of threads."""
    no_energy: str = ""
    """Why energy was not measured."""
    notes: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    complete: bool = True
    """Whether everything that was asked for is in `rows`."""

    @property
    def recommendations(self) -> list[Recommendation]:
        """What to ship at each batch size and number of threads."""
        return recommendations(self.rows, self.max_drop)

    def __str__(self) -> str:
        return " ".join(one.sentence for one in self.recommendations) or "Nothing could be run."
