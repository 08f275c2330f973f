"""The numeric results of a run, from which sentences, tables and headlines are written."""

from __future__ import annotations

import math

from slimcnn.reporting.sections import Part


class Numbers(Part):
    """Accuracy and costs of one network."""

    top1: float | None = None
    """Percent, on the test images; None for other tasks than classification."""
    metric: float | None = None
    """The task's metric on the test images, in its unit; None in reports of older versions, which have top-1 only."""
    params: int
    macs: int
    """MACs of one image."""
    bytes: int
    """Size of the checkpoint file on disk."""
    peak_memory: int
    """Peak bytes of the live activations of one image, float32, without the weights."""
    latency_ms: float
    """Median time of one call."""

    @property
    def score(self) -> float:
        """The metric by which the network is judged."""
        found = self.top1 if self.metric is None else self.metric
        return math.nan if found is None else found


class MetricName(Part):
    """The metric of a task."""

    name: str = "top-1"
    unit: str = "%"
    higher_is_better: bool = True

    @property
    def title(self) -> str:
        """Name and unit, for the head of a column.

        >>> MetricName().title, MetricName(name="error", unit="").title
        ('top-1, %', 'error')
        """
        return f"{self.name}, {self.unit}" if self.unit else self.name


class CutVerdict(Part):
    """Whether `prune(model)` and `mask(model)` compute the same outputs."""

    equal: bool
    error: float
    """Largest difference of any output, relative to the largest output."""
    text: str


class Conditions(Part):
    """The conditions of a latency measurement."""

    batch: int
    threads: int
    runtime: str
    device: str
    n: int
    """Calls of each network, interleaved."""


WIDE = 0.2
"""A latency ratio whose quartiles are further apart than this share of it is flagged."""


class Ratio(Part):
    """Latency of a network / latency of the original in the same round of interleaved calls."""

    median: float
    lower: float
    """Lower quartile."""
    upper: float
    """Upper quartile."""

    @property
    def is_wide(self) -> bool:
        """Whether the ratio varied so much that the machine was probably busy.

        >>> Ratio(median=0.7, lower=0.68, upper=0.72).is_wide, Ratio(median=0.7, lower=0.6, upper=0.9).is_wide
        (False, True)
        """
        return self.upper - self.lower > WIDE * self.median


class Timing(Conditions):
    """Latency of both networks from interleaved calls."""

    before_ms: tuple[float, float, float]
    """Lower quartile, median, upper quartile."""
    after_ms: tuple[float, float, float]
    ratio: Ratio
    """The only ratio of both times that a report states: that of the medians differs on a busy machine."""

    @property
    def conditions(self) -> Conditions:
        """The conditions without the times."""
        return Conditions(**{name: getattr(self, name) for name in Conditions.model_fields})


class Comparison(Part):
    """A run's result compared with the original network."""

    network: str
    dataset: str
    images: dict[str, int]
    """Number of train, validation and test images."""
    metric: MetricName = MetricName()
    before: Numbers
    after: Numbers
    verdict: CutVerdict | None
    """None if nothing was cut."""
    warnings: tuple[str, ...] = ()
    """Steps that left the network worse, each with what to try."""
    next_steps: tuple[str, ...] = ()
    """Suggested next steps, as sentences."""
    timing: Timing
