"""Render self-contained HTML pages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from slimcnn.reporting.comparison import headline, is_alarming, rows, verdict_in_words
from slimcnn.reporting.curve import curve_headline, curve_in_words, curve_sections, sizes_of
from slimcnn.reporting.figures.steps import MeasuredStep, Steps
from slimcnn.reporting.formatting import plural
from slimcnn.reporting.layout import lay_out, template
from slimcnn.reporting.schema import CurveReport, LockedLayer, Report
from slimcnn.reporting.sections import Column, Section, Table, Text

UNFOLDED = 12
"""Maximum number of rows in an unfolded table of locked channels."""

ENDING = {"measuring": "How it was measured", "repeat": "How to reproduce it", "glossary": "Glossary"}
"""The last sections of every report: anchor → title."""


def render_page(title: str, headline: str, sections: Iterable[Section]) -> str:
    """Render a self-contained HTML page: inline style and figures, no scripts, no external references.

    The same sections give the same bytes. All text is escaped.
    """
    return template("page.html").render(title=title, headline=headline, sections=lay_out(sections), report=None)


def render(report: Report) -> str:
    """Render the page of a run: verdict, comparison, the sections of its steps, and how to reproduce it."""
    cut = report.verdict is not None or bool(report.locked)
    ending = ({"locked": "Locked channels"} if cut else {}) | ENDING
    sections = lay_out((_step_by_step(report), *report.sections), taken=("comparison", *ending))
    return template("report.html").render(
        report=report,
        title=report.title,
        headline=headline(report),
        verdict=verdict_in_words(report),
        broken=is_alarming(report),
        rows=rows(report),
        sections=sections,
        ending=ending,
        locked=_by_reason(report.locked),
        unfolded=UNFOLDED,
    )


def render_curve(report: CurveReport) -> str:
    """Render the page of a curve: verdict, a table with a link to each size's page, and two figures."""
    return template("report.html").render(
        report=report,
        title=report.title,
        headline=curve_headline(report),
        verdict=curve_in_words(report),
        broken=any(point.verdict is not None and not point.verdict.equal for point in report.points),
        sizes=sizes_of(report),
        sections=lay_out(curve_sections(report), taken=("comparison", *ENDING)),
        ending=ENDING,
    )


def _step_by_step(report: Report) -> Section:
    """Show the metric, MACs and time after each step."""
    title = "Step by step"
    if not report.steps:
        return Section(title=title, blocks=(Text(text="The run has no steps."),))
    images = plural(report.images["validation"], "validation image") if "validation" in report.images else ""
    words = (
        f"{report.metric.sentence} on {images or 'the validation images'}. The test images are used once, at the end."
    )
    drawing = Steps(
        metric=report.metric,
        steps=(
            MeasuredStep(name="original", score=report.reference_metric),
            *(MeasuredStep(name=step.name, score=step.metric) for step in report.steps),
        ),
    )
    columns = (
        Column(title="step"), Column(title=report.metric.title, format=report.metric.format),
        Column(title="change", format=report.metric.change_format), Column(title="MACs left", format="share"),
        Column(title="time", format="seconds"),
    )  # fmt: skip
    lines = [("original", report.reference_metric, None, 1.0, None)] + [
        (
            step.name, step.metric, report.metric.change(report.reference_metric, step.metric),
            step.macs / max(report.before.macs, 1), step.seconds,
        )
        for step in report.steps
    ]  # fmt: skip
    return Section(title=title, blocks=(Text(text=words), drawing.block(), Table(columns=columns, rows=tuple(lines))))


def _by_reason(locked: Sequence[LockedLayer]) -> list[tuple[str, int, list[LockedLayer]]]:
    """Group locked layers as (reason, channels, layers), most channels first."""
    found: dict[str, list[LockedLayer]] = defaultdict(list)
    for layer in locked:
        found[layer.reason].append(layer)
    sums = [(reason, sum(layer.channels for layer in layers), layers) for reason, layers in found.items()]
    return sorted(sums, key=lambda entry: (-entry[1], entry[0]))
