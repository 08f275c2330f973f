"""Pages: one HTML file each that needs nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from slimcnn.reporting.comparison import headline, rows, verdict_in_words
from slimcnn.reporting.curve import curve_headline, curve_in_words, curve_sections, sizes_of
from slimcnn.reporting.figures.steps import Steps, StepTop1
from slimcnn.reporting.formatting import plural
from slimcnn.reporting.layout import lay_out, template
from slimcnn.reporting.schema import CurveReport, LockedLayer, Report
from slimcnn.reporting.sections import Column, Section, Table, Text

UNFOLDED = 12
"""Rows of a table of locked channels that need no folding."""

ENDING = {"measuring": "How it was measured", "repeat": "How to repeat it", "glossary": "Glossary"}
"""The last sections of every report: place in links, and title."""


def render_page(title: str, headline: str, sections: Iterable[Section]) -> str:
    """One self-contained HTML page: style and pictures inside, no script, no reference to anything outside.

    The same sections give the same bytes. Everything in them is escaped.
    """
    return template("page.html").render(title=title, headline=headline, sections=lay_out(sections), report=None)


def render(report: Report) -> str:
    """The page of a run: verdict, comparison, what the steps say, and how to repeat it."""
    cut = report.verdict is not None or bool(report.locked)
    ending = ({"locked": "What had to stay"} if cut else {}) | ENDING
    sections = lay_out((_from_step_to_step(report), *report.sections), taken=("comparison", *ending))
    return template("report.html").render(
        report=report,
        title=report.title,
        headline=headline(report),
        verdict=verdict_in_words(report),
        broken=report.verdict is not None and not report.verdict.equal,
        rows=rows(report.before, report.after),
        sections=sections,
        ending=ending,
        locked=_by_reason(report.locked),
        unfolded=UNFOLDED,
    )


def render_curve(report: CurveReport) -> str:
    """The page of several sizes: verdict, a table with a link to each size's own page, and the two figures."""
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


def _from_step_to_step(report: Report) -> Section:
    """Top-1, MACs and time after each step."""
    title = "From step to step"
    if not report.steps:
        return Section(title=title, blocks=(Text(text="No step was taken."),))
    images = plural(report.images["validation"], "validation image") if "validation" in report.images else ""
    words = f"Top-1 in percent on {images or 'the validation images'}. The test images are read once, at the end."
    drawing = Steps(
        steps=(
            StepTop1(name="original", top1=report.reference_top1),
            *(StepTop1(name=step.name, top1=step.top1) for step in report.steps),
        )
    )
    columns = (
        Column(title="step"), Column(title="top-1, %", format="percent"), Column(title="change", format="points"),
        Column(title="MACs left", format="share"), Column(title="time", format="seconds"),
    )  # fmt: skip
    lines = [("original", report.reference_top1, None, 1.0, None)] + [
        (
            step.name, step.top1, round(step.top1, 2) - round(report.reference_top1, 2),
            step.macs / max(report.before.macs, 1), step.seconds,
        )
        for step in report.steps
    ]  # fmt: skip
    return Section(title=title, blocks=(Text(text=words), drawing.block(), Table(columns=columns, rows=tuple(lines))))


def _by_reason(locked: Sequence[LockedLayer]) -> list[tuple[str, int, list[LockedLayer]]]:
    """(reason, channels, layers), most channels first."""
    found: dict[str, list[LockedLayer]] = defaultdict(list)
    for layer in locked:
        found[layer.reason].append(layer)
    sums = [(reason, sum(layer.channels for layer in layers), layers) for reason, layers in found.items()]
    return sorted(sums, key=lambda entry: (-entry[1], entry[0]))
