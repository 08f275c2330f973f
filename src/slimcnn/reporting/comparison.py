"""Before and after, in words: the headline and the rows of the table."""

from __future__ import annotations

from dataclasses import dataclass

from slimcnn.reporting import phrases
from slimcnn.reporting.contents import Numbers, Report


@dataclass(frozen=True)
class Row:
    """One line of the before/after table."""

    name: str
    before: str
    after: str
    change: str
    exact: tuple[str, str] | None = None
    """Every digit of both, where `before` and `after` are rounded."""


def headline(report: Report) -> str:
    """The run in one sentence."""
    before, after = report.before, report.after
    return (
        f"{report.network} on {report.dataset}: {phrases.ratio(before.macs, after.macs)} of the MACs, "
        f"{phrases.ratio(before.params, after.params)} of the parameters, "
        f"top-1 {phrases.percent(before.top1)} → {phrases.percent(after.top1)} "
        f"({phrases.points(before.top1, after.top1)})"
    )


def rows(before: Numbers, after: Numbers) -> tuple[Row, ...]:
    """The five numbers of both networks; `change` is after / before, for top-1 the difference in points."""
    top1 = Row(
        "top-1, %",
        phrases.percent(before.top1),
        phrases.percent(after.top1),
        _points(before.top1, after.top1),
    )
    time = Row(
        "latency, ms",
        phrases.milliseconds(before.latency_ms),
        phrases.milliseconds(after.latency_ms),
        _times(before.latency_ms, after.latency_ms),
    )
    sizes = (
        Row(
            name,
            write(old),
            write(new),
            _times(old, new),
            (phrases.whole(old), phrases.whole(new)),
        )
        for name, write, old, new in (
            ("parameters", phrases.count, before.params, after.params),
            ("MACs", phrases.count, before.macs, after.macs),
            ("bytes on disk", phrases.size, before.bytes, after.bytes),
        )
    )
    return (top1, *sizes, time)


def _points(before: float, after: float) -> str:
    value = phrases.points(before, after)
    return value if value == phrases.NOTHING else f"{value} points"


def _times(before: float, after: float) -> str:
    value = phrases.ratio(before, after)
    return value if value == phrases.NOTHING else f"× {value}"
