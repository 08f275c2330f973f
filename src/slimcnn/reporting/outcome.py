"""The numeric results of a run, from which sentences, tables and headlines are written."""

from __future__ import annotations

import math

from slimcnn.reporting import formatting
from slimcnn.reporting.sections import Format, Part


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
    """The metric of a task: its name, unit and direction, and how its values are written."""

    name: str = "top-1"
    unit: str = "%"
    higher_is_better: bool = True

    @classmethod
    def of(cls, metric: object) -> MetricName:
        """Return the name of a task's metric (`slimcnn.tasks.Metric`), which has the same attributes."""
        return cls.model_validate(metric, from_attributes=True)

    @property
    def title(self) -> str:
        """Name and unit, for the head of a column.

        >>> MetricName().title, MetricName(name="error", unit="").title
        ('top-1, %', 'error')
        """
        return f"{self.name}, {self.unit}" if self.unit else self.name

    @property
    def direction(self) -> str:
        """What a reader must know about a figure, after a semicolon; empty where higher is better, as expected."""
        return "" if self.higher_is_better else "; lower is better"

    @property
    def sentence(self) -> str:
        """Name and unit, for the beginning of a sentence.

        >>> MetricName().sentence, MetricName(name="depth error", unit="m").sentence
        ('Top-1 in percent', 'Depth error in m')
        """
        unit = {"%": " in percent", "": ""}.get(self.unit, f" in {self.unit}")
        return f"{formatting.capital(self.name)}{unit}"

    @property
    def format(self) -> Format:
        """The format of a column of values."""
        return "percent" if self.unit == "%" else "small"

    @property
    def change_format(self) -> Format:
        """The format of a column of differences."""
        return "points" if self.unit == "%" else "signed"

    @property
    def change_unit(self) -> str:
        """The unit of a difference: points for a percentage."""
        return "points" if self.unit == "%" else self.unit

    def number(self, value: float) -> str:
        """Format a value without its unit: a percentage with two decimals, any other number with three digits.

        >>> MetricName().number(93.386), MetricName(name="error", unit="").number(0.01278)
        ('93.39', '0.0128')
        """
        return formatting.write(float(value), self.format)

    def written(self, value: float) -> str:
        """Format a value with its unit.

        >>> MetricName().written(93.386), MetricName(name="depth error", unit="m").written(0.01278)
        ('93.39 %', '0.0128 m')
        """
        return f"{self.number(value)} {self.unit}".rstrip()

    def change(self, before: float, after: float) -> float:
        """Return after - before; of percentages, after rounding each to two decimals, as a table shows them."""
        return round(after, 2) - round(before, 2) if self.unit == "%" else after - before

    def signed(self, change: float) -> str:
        """Format a difference with its sign, without its unit; a dash if it is unknown.

        >>> MetricName().signed(-0.37), MetricName(name="error", unit="").signed(0.01)
        ('−0.37', '+0.01')
        """
        return formatting.write(float(change), self.change_format)

    def changed(self, before: float, after: float) -> str:
        """Format the change with its sign and its unit; a dash if it is unknown.

        >>> MetricName().changed(93.39, 93.02), MetricName(name="error", unit="").changed(0.2, 0.21)
        ('−0.37 points', '+0.01')
        """
        found = self.signed(self.change(before, after))
        return found if found == formatting.NOTHING else f"{found} {self.change_unit}".rstrip()

    def gain(self, before: float, after: float) -> float:
        """Return how much better a value is, in the metric's unit; negative if it is worse."""
        return after - before if self.higher_is_better else before - after

    def worst_allowed(self, best: float) -> float:
        """Return how much worse a value may be without counting as a loss: 1 point, or 1 % of what is no percentage.

        >>> MetricName().worst_allowed(93.0), MetricName(name="error", unit="").worst_allowed(0.5)
        (1.0, 0.005)
        """
        return 1.0 if self.unit == "%" else abs(best) / 100


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
