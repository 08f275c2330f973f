"""The schema of report.json; report.html shows the same data."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from slimcnn.reporting import notebook
from slimcnn.reporting.comparison import headline, is_alarming, rows, verdict_in_words
from slimcnn.reporting.outcome import Comparison, Conditions, CutVerdict, MetricName, Numbers, Ratio, Timing
from slimcnn.reporting.sections import Part, Section

__all__ = [
    "FORMAT",
    "OLDEST",
    "Conditions",
    "CurvePoint",
    "CurveReport",
    "CutVerdict",
    "LockedLayer",
    "MetricName",
    "Numbers",
    "Ratio",
    "Report",
    "StepResult",
    "Timing",
]

FORMAT = 4
"""Increased when a field changes its name or its meaning; an older slimcnn rejects newer reports."""

OLDEST = 3
"""The oldest format that is read. It calls the metric on validation images top1, whatever the task."""


class StepResult(Part):
    """Accuracy and costs after one step of the run."""

    name: str
    metric: float = Field(validation_alias=AliasChoices("metric", "top1"))
    """The task's metric on the validation images after the step."""
    seconds: float
    macs: int
    params: int


class LockedLayer(Part):
    """Locked output channels of a layer, and the reason."""

    layer: str
    channels: int
    of: int
    reason: str
    where: str


class Report(Comparison):
    """One run, with everything needed to assess and reproduce it."""

    format: int = FORMAT
    kind: Literal["run"] = "run"
    title: str
    command: str
    """The command that repeats the run."""
    reference_metric: float = Field(validation_alias=AliasChoices("reference_metric", "reference_top1"))
    """The task's metric on the validation images before any step."""
    steps: tuple[StepResult, ...]
    locked: tuple[LockedLayer, ...] = ()
    sections: tuple[Section, ...] = ()
    """Sections of the steps, in their order."""
    not_counted: tuple[str, ...]
    """Operations that take time but count 0 MACs."""
    notes: tuple[str, ...] = ()
    environment: dict[str, str]
    recipe: str
    """The resolved recipe, as TOML."""
    checkpoint: str
    """File name of the compressed network."""
    seconds: float = Field(ge=0)
    """Duration of the whole run, without interruptions."""

    def __repr__(self) -> str:
        return f"Report({headline(self)})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        broken = bool(self.warnings) or is_alarming(self)
        said = [*self.warnings, *verdict_in_words(self)]
        return notebook.comparison(self.title, headline(self), said, broken, rows(self))


class CurvePoint(Part):
    """One size of a curve."""

    label: str
    macs_target: float
    """Target: share of the MACs to keep."""
    report: str
    """Path of the size's report.html, relative to the curve's folder, with slashes."""
    after: Numbers
    ratio: Ratio
    """Latency of this size relative to the reference."""
    verdict: CutVerdict | None
    """None if nothing was cut."""
    steps: tuple[StepResult, ...]
    warnings: tuple[str, ...] = ()
    """Steps that left this network worse, each with what to try."""


class CurveReport(Part):
    """Several sizes of one network, from one run."""

    format: int = FORMAT
    kind: Literal["curve"] = "curve"
    title: str
    command: str
    """The command that repeats the run."""
    network: str
    dataset: str
    images: dict[str, int] = Field(default_factory=dict)
    """Number of train, validation and test images."""
    metric: MetricName = MetricName()
    reference: Numbers
    """The network before any step."""
    points: tuple[CurvePoint, ...] = Field(min_length=1)
    timing: Conditions
    environment: dict[str, str]
    recipe: str
    """The resolved recipe, as TOML."""
    seconds: float = Field(ge=0)
    """Duration of the whole run, without interruptions."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of all sizes; those about a step that all sizes share are given once."""
        return tuple(dict.fromkeys(warning for point in self.points for warning in point.warnings))

    def __repr__(self) -> str:
        return f"CurveReport({self.title}: {', '.join(point.label for point in self.points)})"

    __str__ = __repr__
