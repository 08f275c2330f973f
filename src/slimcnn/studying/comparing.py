"""Compare the points of a study: means over seeds, differences from the baseline, and the best trade-offs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slimcnn.digests import json_digest
from slimcnn.reporting.comparison import TOP1
from slimcnn.reporting.outcome import MetricName
from slimcnn.studying.points import is_baseline
from slimcnn.studying.rows import StudyRow

LEVEL = 0.95
RESAMPLES = 9_999


@dataclass(frozen=True)
class Cell:
    """One measure of one point over its seeds."""

    mean: float
    sd: float | None
    """Standard deviation, with n - 1; None for one seed."""
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean difference of a point from the baseline, paired by seed."""

    mean: float
    low: float | None
    """Lower end of the 95 % interval; None for one pair."""
    high: float | None
    n: int
    clear: bool
    """Whether the two can be told apart: neither the bootstrap interval nor the paired t-test allows for no difference.

    The bootstrap alone is too sure of itself with few seeds, because it never leaves the range of its values.
    """

    def written(self, metric: MetricName = TOP1) -> str:
        """Write the mean and its interval, in points or in the unit of the metric."""
        mean = metric.signed(self.mean)
        if self.low is None or self.high is None:
            return mean
        ends = f"({metric.signed(self.low)} to {metric.signed(self.high)})"
        return f"{mean} {ends}".replace(" ", "\N{NO-BREAK SPACE}")

    __str__ = written

    @property
    def verdict(self) -> str:
        """Say whether the two can be told apart."""
        return "yes" if self.clear else f"not at n = {self.n}"


def grouped(rows: Sequence[StudyRow]) -> dict[str, list[StudyRow]]:
    """Group finished rows by point, in the order of the rows."""
    found: dict[str, list[StudyRow]] = {}
    for row in rows:
        if row.status == "done":
            found.setdefault(json_digest(dict(row.point)), []).append(row)
    return found


def cell_of(values: Sequence[float]) -> Cell:
    """Summarize the values of a measure.

    >>> cell_of([90.0, 92.0]), cell_of([90.0]).sd
    (Cell(mean=91.0, sd=1.4142135623730951, n=2), None)
    """
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Cell(float(np.mean(values)), sd, len(values))


def difference_of(own: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Compare values by seed with the baseline's; None if they share no seed.

    The interval is a percentile bootstrap of the paired differences, from scipy, with a fixed seed.

    >>> found = difference_of({0: 91.0, 1: 91.2, 2: 91.1, 3: 91.3}, {0: 90.0, 1: 90.1, 2: 90.2, 3: 90.1})
    >>> round(found.mean, 3), found.clear, found.low <= found.mean <= found.high
    (1.05, True, True)
    >>> difference_of({0: 91.0}, {0: 90.0}).clear
    False
    """
    pairs = [own[seed] - baseline[seed] for seed in sorted(set(own) & set(baseline))]
    if not pairs or not all(map(math.isfinite, pairs)):
        return None
    mean = float(np.mean(pairs))
    if len(pairs) == 1:
        return Difference(mean, None, None, 1, clear=False)
    if max(pairs) == min(pairs):
        return Difference(mean, mean, mean, len(pairs), clear=mean != 0)
    from scipy.stats import bootstrap, ttest_1samp

    found = bootstrap(
        (np.array(pairs),), np.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    clear = not found.low <= 0 <= found.high and float(ttest_1samp(pairs, 0.0).pvalue) < 1 - LEVEL
    return Difference(mean, float(found.low), float(found.high), len(pairs), clear)


def against_baseline(
    rows: Sequence[StudyRow], baseline: Mapping[str, Any], value: Callable[[StudyRow], float]
) -> dict[str, Difference]:
    """Compare every point with the point that has the baseline's values and is otherwise equal, by point digest."""
    points = grouped(rows)
    found = {}
    for key, own in points.items():
        if not baseline or is_baseline(own[0].point, baseline):
            continue
        other = points.get(json_digest(dict(own[0].point) | dict(baseline)), [])
        difference = difference_of({r.seed: value(r) for r in own}, {r.seed: value(r) for r in other})
        if difference is not None:
            found[key] = difference
    return found


def front_of(points: Sequence[tuple[float, float]], higher_is_better: bool = True) -> list[int]:
    """Return the indices of points (cost, metric) that no other point beats in both, from low to high cost.

    >>> front_of([(1.0, 90.0), (0.5, 88.0), (0.6, 87.0), (0.5, 86.0)])
    [1, 0]
    >>> front_of([(1.0, 0.1), (0.5, 0.3), (0.6, 0.4)], higher_is_better=False)
    [1, 0]
    """
    gains = [value if higher_is_better else -value for _, value in points]
    best, found = -math.inf, []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -gains[i])):
        if gains[index] > best:
            best = gains[index]
            found.append(index)
    return found
