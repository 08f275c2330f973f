"""Before and after, in words: the headline and the rows of the table."""

from __future__ import annotations

from dataclasses import dataclass

from slimcnn.reporting import phrases
from slimcnn.reporting.contents import Closeness, Numbers, Report


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


def closest_pairs(found: Closeness, n: int = 6) -> list[tuple[str, str, float, float]]:
    """List the pairs that the teacher finds closest: (images of, taken for, teacher's log ratio, student's).

    >>> found = Closeness(
    ...     classes=("cat", "dog"), teacher=((0, -1.0), (-2.0, 0)), student=((0, -3.0), (-2.5, 0)), temperature=4,
    ...     images=9,
    ... )
    >>> closest_pairs(found, 1)
    [('cat', 'dog', -1.0, -3.0)]
    """
    pairs = [
        (teacher, found.student[i][j], found.classes[i], found.classes[j])
        for i, row in enumerate(found.teacher)
        for j, teacher in enumerate(row)
        if i != j
    ]
    return [(one, other, teacher, student) for teacher, student, one, other in sorted(pairs, reverse=True)[:n]]
