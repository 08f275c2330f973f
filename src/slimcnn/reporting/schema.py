"""What a report holds, as data: report.json is exactly this, and report.html shows it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from slimcnn.reporting import notebook
from slimcnn.reporting.comparison import headline, rows, verdict_in_words
from slimcnn.reporting.outcome import Comparison, Conditions, CutVerdict, Numbers, Timing
from slimcnn.reporting.sections import Part, Section

__all__ = [
    "FORMAT",
    "Conditions",
    "CurvePoint",
    "CurveReport",
    "CutVerdict",
    "LockedLayer",
    "Numbers",
    "Report",
    "StepResult",
    "Timing",
]

FORMAT = 2
"""Grows when a field changes its meaning; an older slimcnn refuses newer reports."""


class StepResult(Part):
    """What a step of the run came to."""

    name: str
    top1: float
    """On the validation images, after the step."""
    seconds: float
    macs: int
    params: int


class LockedLayer(Part):
    """Output channels of a layer that had to stay, and why."""

    layer: str
    channels: int
    of: int
    reason: str
    where: str


class Report(Comparison):
    """One run, with everything that is needed to judge and to repeat it."""

    format: int = FORMAT
    kind: Literal["run"] = "run"
    title: str
    command: str
    """What to type to run it again."""
    reference_top1: float
    """On the validation images, before any step."""
    steps: tuple[StepResult, ...]
    locked: tuple[LockedLayer, ...] = ()
    sections: tuple[Section, ...] = ()
    """What the steps say, in their order."""
    not_counted: tuple[str, ...]
    """Operations that take time and count 0 MACs."""
    notes: tuple[str, ...] = ()
    environment: dict[str, str]
    recipe: str
    """The resolved recipe, as TOML."""
    checkpoint: str
    """File name of the compressed network."""
    seconds: float = Field(ge=0)
    """The whole run, without interruptions."""

    def __repr__(self) -> str:
        return f"Report({headline(self)})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        broken = self.verdict is not None and not self.verdict.equal
        return notebook.comparison(
            self.title, headline(self), verdict_in_words(self), broken, rows(self.before, self.after)
        )


class CurvePoint(Part):
    """One size of a curve."""

    label: str
    macs_target: float
    """Share of the MACs that was to stay."""
    report: str
    """Path of its own report.html, relative to the curve's folder, with slashes."""
    after: Numbers
    verdict: CutVerdict | None
    """None where nothing was cut."""
    steps: tuple[StepResult, ...]


class CurveReport(Part):
    """Several sizes of one network, from one run."""

    format: int = FORMAT
    kind: Literal["curve"] = "curve"
    title: str
    command: str
    """What to type to run it again."""
    network: str
    dataset: str
    images: dict[str, int] = Field(default_factory=dict)
    """train, validation, test."""
    reference: Numbers
    """The network before any step."""
    points: tuple[CurvePoint, ...] = Field(min_length=1)
    timing: Conditions
    environment: dict[str, str]
    recipe: str
    """The resolved recipe, as TOML."""
    seconds: float = Field(ge=0)
    """The whole run, without interruptions."""

    def __repr__(self) -> str:
        return f"CurveReport({self.title}: {', '.join(point.label for point in self.points)})"

    __str__ = __repr__
