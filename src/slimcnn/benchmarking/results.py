"""The results of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from slimcnn.benchmarking.recommending import Recommendation, recommendations
from slimcnn.benchmarking.rows import BenchmarkRow
from slimcnn.reporting.comparison import TOP1
from slimcnn.reporting.outcome import MetricName


@dataclass(frozen=True)
class Benchmark:
    """All rows of a benchmark and its settings."""

    rows: tuple[BenchmarkRow, ...]
    images: int
    """Number of images for the metric; 0: not measured."""
    part: str
    """Which images these are: test, validation ..."""
    max_drop: float | None
    """How much worse than the best the network to ship may be, in points or in the metric's unit; None: see `rule`."""
    seconds: float
    """Duration of the timing per runtime, batch size and number of threads."""
    no_energy: str = ""
    """Why energy was not measured."""
    notes: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    complete: bool = True
    """Whether `rows` holds all requested measurements."""
    metric: MetricName = TOP1
    """The metric of the task."""

    @property
    def recommendations(self) -> list[Recommendation]:
        """The network to ship at each batch size and number of threads."""
        return recommendations(self.rows, self.max_drop, self.metric)

    def __str__(self) -> str:
        return " ".join(one.sentence for one in self.recommendations) or "Nothing could be run."
