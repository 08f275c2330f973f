"""Compare several sizes of one network: headline, verdict, table and figure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import zip_longest
from urllib.parse import quote

from slimcnn.reporting import formatting
from slimcnn.reporting.comparison import ratio_of, times
from slimcnn.reporting.figures.sizes import Size, Sizes
from slimcnn.reporting.outcome import MetricName, Numbers, Ratio
from slimcnn.reporting.schema import CurvePoint, CurveReport
from slimcnn.reporting.sections import Column, Section, Table, Text


@dataclass(frozen=True)
class SizeRow:
    """One size of a curve compared with the reference, formatted."""

    label: str
    report: str
    """Link to the size's page; empty for the reference."""
    score: str
    change: str
    macs: str
    macs_ratio: str
    params: str
    params_ratio: str
    bytes: str
    bytes_ratio: str
    latency: str
    latency_ratio: str


def sizes_of(report: CurveReport) -> list[SizeRow]:
    """Return the rows of a curve's table: the reference first, then all sizes in their order."""
    same = Ratio(median=1.0, lower=1.0, upper=1.0)
    first = _row("original", "", report.reference, report.reference, same, report.metric)
    return [
        first,
        *(
            _row(point.label, _link(point.report), report.reference, point.after, point.ratio, report.metric)
            for point in report.points
        ),
    ]


def curve_headline(report: CurveReport) -> str:
    """Summarize the curve in one sentence."""
    shares = [point.after.macs / max(report.reference.macs, 1) for point in report.points]
    ends = " to ".join(dict.fromkeys(f"{share:.2f}" for share in (max(shares), min(shares))))
    return f"{report.network} on {report.dataset}: {formatting.plural(len(shares), 'size')}, {ends} of the MACs"


def curve_in_words(report: CurveReport) -> list[str]:
    """Describe the recommended size, the smallest size, and whether the cuts are exact, as sentences."""
    known = [point for point in report.points if math.isfinite(point.after.score)]
    metric, original = report.metric, report.reference.score
    if not known or not math.isfinite(original):
        name = formatting.capital(metric.name)
        return [f"{name} on the test images is not known, so no size can be recommended.", *_unsure(report)]
    small_first = sorted(known, key=lambda point: point.after.macs)
    allowed = metric.worst_allowed(original)
    cheap = [point for point in small_first if -metric.gain(original, point.after.score) <= allowed]
    chosen = cheap[0] if cheap else max(known, key=lambda point: metric.gain(original, point.after.score))
    if cheap:
        words = [f"The smallest size that {_loses(metric, 'at most')} is {_described(chosen, report)}."]
    else:
        words = [f"Every size {_loses(metric, 'more than')}; the mildest is {_described(chosen, report)}."]
    if small_first[0] is not chosen:
        words.append(f"The smallest size is {_described(small_first[0], report)}.")
    return [*words, *_unsure(report)]


def _loses(metric: MetricName, bound: str) -> str:
    """Say that a size loses at most, or more than, what `MetricName.worst_allowed` allows.

    >>> _loses(MetricName(), "at most"), _loses(MetricName(name="error", unit="", higher_is_better=False), "more than")
    ('loses at most 1 point of top-1', 'raises error by more than 1 %')
    """
    size = "1 point" if metric.unit == "%" else "1 %"
    return (
        f"loses {bound} {size} of {metric.name}"
        if metric.higher_is_better
        else f"raises {metric.name} by {bound} {size}"
    )


def curve_sections(report: CurveReport) -> list[Section]:
    """Return two sections: the figure of all sizes, and the accuracy of each size after each step."""
    drawing = Sizes(
        reference=_size("original", report.reference),
        points=tuple(_size(point.label, point.after) for point in report.points),
        metric=report.metric,
    )
    name = formatting.capital(report.metric.name)
    figure = Section(
        title="Accuracy against cost",
        blocks=(Text(text=f"{name} on the test images; dashed line: the original network."), drawing.block()),
    )
    steps = list(zip_longest(*(point.steps for point in report.points)))
    if not steps:
        return [figure]
    form = report.metric.format
    columns = (Column(title="step"), *(Column(title=point.label, format=form) for point in report.points))
    lines = [(next(one.name for one in step if one), *(one.metric if one else None for one in step)) for step in steps]
    words = f"{report.metric.sentence} on the validation images after each step, one column per size."
    return [
        figure,
        Section(title="Step by step", blocks=(Text(text=words), Table(columns=columns, rows=tuple(lines)))),
    ]


def _link(path: str) -> str:
    """Return a path as a link that is always relative.

    >>> _link("0.5/report.html"), _link("javascript:alert(1)")
    ('./0.5/report.html', './javascript%3Aalert%281%29')
    """
    return f"./{quote(path)}" if path else ""


def _unsure(report: CurveReport) -> list[str]:
    """Describe whether the cuts are exact, and which latencies are unsure."""
    unsure = [point.label for point in report.points if point.ratio.is_wide and math.isfinite(point.after.latency_ms)]
    words = f"The time of {', '.join(unsure)} varied widely between calls: measure again on an idle machine."
    return [_exactness(report), *([words] if unsure else [])]


def _exactness(report: CurveReport) -> str:
    cuts = [point for point in report.points if point.verdict is not None]
    broken = [point.label for point in cuts if point.verdict is not None and not point.verdict.equal]
    if not cuts:
        return "No channels were removed, so there is no cut to check."
    if not broken:
        return "The cut is exact." if len(cuts) == 1 else f"All {len(cuts)} cuts are exact."
    return f"Not exact, or not provable: {', '.join(broken)}; each size’s page gives the reason."


def _described(point: CurvePoint, report: CurveReport) -> str:
    metric, reference = report.metric, report.reference
    share = formatting.ratio(reference.macs, point.after.macs)
    time = ratio_of(point.after, point.ratio)
    return (
        f"{point.label}: {share} of the MACs, {metric.name} {metric.written(point.after.score)} "
        f"({metric.changed(reference.score, point.after.score)}), time {time}"
    )


def _row(
    label: str, report: str, reference: Numbers, found: Numbers, ratio: Ratio, metric: MetricName
) -> SizeRow:  # fmt: skip
    return SizeRow(
        label=label,
        report=report,
        score=metric.number(found.score),
        change="" if found is reference else metric.signed(metric.change(reference.score, found.score)),
        macs=formatting.count(found.macs),
        macs_ratio=times(reference.macs, found.macs),
        params=formatting.count(found.params),
        params_ratio=times(reference.params, found.params),
        bytes=formatting.size(found.bytes),
        bytes_ratio=times(reference.bytes, found.bytes),
        latency=formatting.milliseconds(found.latency_ms),
        latency_ratio=ratio_of(found, ratio),
    )


def _size(label: str, found: Numbers) -> Size:
    return Size(label=label, macs=found.macs, score=found.score, latency_ms=found.latency_ms)
