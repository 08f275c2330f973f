"""Recommend which network to ship in which runtime, by a fixed rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slimcnn.benchmarking.rows import AGAIN, TITLES, BenchmarkRow
from slimcnn.reporting.comparison import TOP1
from slimcnn.reporting.outcome import MetricName


@dataclass(frozen=True)
class Recommendation:
    """The row to ship at one batch size and number of threads."""

    row: BenchmarkRow
    alike: tuple[BenchmarkRow, ...]
    """Other allowed rows that are as fast within the noise."""
    headline: str
    """Short form."""
    sentence: str
    """Long form, with all numbers."""


def rule(max_drop: float | None, known: bool, metric: MetricName = TOP1) -> str:
    """Return the rule in words; without `max_drop`, 1 point or 1 % may be lost (see `MetricName.worst_allowed`).

    >>> rule(0.5, known=True)
    'The fastest whose top-1 is at most 0.5 points below the best of the table; of those equally fast within the \
noise, the most accurate, then the smallest file.'
    """
    if max_drop is None:
        bound = "1 point" if metric.unit == "%" else "1 %"
    else:
        unit = "point" if metric.unit == "%" and max_drop == 1 else metric.change_unit
        bound = f"{max_drop:g} {unit}".rstrip()
    side = "below" if metric.higher_is_better else "above"
    allowed = (
        f"The fastest whose {metric.name} is at most {bound} {side} the best of the table"
        if known
        else f"The fastest ({metric.name} is unknown)"
    )
    return f"{allowed}; of those equally fast within the noise, the most accurate, then the smallest file."


def recommendations(
    rows: Sequence[BenchmarkRow], max_drop: float | None, metric: MetricName = TOP1
) -> list[Recommendation]:
    """Apply the rule at every batch size and number of threads, in the order of measurement."""
    settings = dict.fromkeys((row.batch, row.threads) for row in rows)
    alone = ([row for row in rows if (row.batch, row.threads) == setting] for setting in settings)
    found = (_recommendation(some, max_drop, metric) for some in alone)
    return [one for one in found if one is not None]


def _recommendation(rows: Sequence[BenchmarkRow], max_drop: float | None, metric: MetricName) -> Recommendation | None:
    timed = [row for row in rows if row.latency is not None]
    known = [row.score for row in timed if row.score is not None]
    allowed = timed
    if known:
        best = (max if metric.higher_is_better else min)(known)
        drop = metric.worst_allowed(best) if max_drop is None else max_drop
        allowed = [row for row in timed if row.score is not None and -metric.gain(best, row.score) <= drop + 1e-9]
    if not allowed:
        return None
    fastest = min(allowed, key=_median)
    close = [row for row in allowed if _alike(row, fastest)]
    row = min(close, key=lambda one: (-metric.gain(0.0, one.score or 0.0), one.bytes or 0, _median(one)))
    alike = tuple(one for one in close if one is not row)
    return Recommendation(row, alike, _headline(row, metric), _sentence(row, alike, metric))


def _median(row: BenchmarkRow) -> float:
    assert row.latency is not None
    return row.latency.median_ms


def _alike(one: BenchmarkRow, two: BenchmarkRow) -> bool:
    """Whether two times are equal within the noise: by their ratio in one runtime, else by overlapping quartiles."""
    assert one.latency is not None
    assert two.latency is not None
    if one.runtime == two.runtime:
        noise = max(AGAIN, (one.noise**2 + two.noise**2) ** 0.5)
        return one is two or abs(one.latency.relative / two.latency.relative - 1) <= noise
    return one.latency.lower_ms <= two.latency.upper_ms and two.latency.lower_ms <= one.latency.upper_ms


def _headline(row: BenchmarkRow, metric: MetricName) -> str:
    score = f", {metric.name} {metric.written(row.score)}" if row.score is not None else ""
    return f"{_setting(row)}, ship {_named(row)}: {_median(row):.3g} ms a call{score}"


def _sentence(row: BenchmarkRow, alike: Sequence[BenchmarkRow], metric: MetricName) -> str:
    facts = [f"{_median(row):.3g} ms a call", _speed(row, alike), _accuracy(row, metric)]
    if row.bytes is not None:
        facts.append(f"{row.bytes / 1e6:.3g} MB on disk")
    text = f"{_setting(row)}, ship {_named(row)}: {', '.join(filter(None, facts))}."
    if alike:
        others = "; ".join(_named(one) for one in alike)
        text += f" Equally fast within the noise: {others}."
    return text


def _setting(row: BenchmarkRow) -> str:
    return f"At batch {row.batch} with {'1 thread' if row.threads == 1 else f'{row.threads} threads'}"


def _named(row: BenchmarkRow) -> str:
    return f"{row.network} in {TITLES.get(row.runtime, row.runtime)}"


def _speed(row: BenchmarkRow, alike: Sequence[BenchmarkRow]) -> str:
    assert row.latency is not None
    named = any((one.network, one.runtime) == (row.reference, row.runtime) for one in alike)
    if row.speed == "first" or (row.speed == "alike" and named):
        return ""
    if row.speed == "alike":
        return f"as fast as {row.reference} there within the noise"
    times = 1 / row.latency.relative if row.speed == "faster" else row.latency.relative
    return f"{times:.3g} times {'as fast' if row.speed == 'faster' else 'as long'} as {row.reference} there"


def _accuracy(row: BenchmarkRow, metric: MetricName) -> str:
    if row.score is None:
        return f"{metric.name} unknown"
    score = f"{metric.name} {metric.written(row.score)}"
    if row.points is None or row.speed == "first":
        return score
    if row.points_error is None:
        return f"{score} ({metric.signed(row.points)} {metric.change_unit}".rstrip() + ")"
    points = f"{row.points:+.2f} ± {row.points_error:.2f} points".replace("-", "−")
    return f"{score} ({points}{', below the noise' if abs(row.points) <= 2 * row.points_error > 0 else ''})"
