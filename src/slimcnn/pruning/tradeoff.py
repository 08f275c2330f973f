"""Removals ordered by output error per saving, where savings come in steps.

MACs fall with every channel; milliseconds fall at multiples of 8 or 16 channels, and most when a whole branch
vanishes. So the possible widths of a group are points (saving, error). The lower convex hull from (0, 0) leaves the
removals worth making, each at a price: error per saving. Taken in order of rising price over all groups, they solve
the linear relaxation of the multiple-choice knapsack problem, which is off by at most one removal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

Offer = tuple[int, float, float]
"""Channels removed, saving, error."""


def worthwhile(points: Sequence[Offer]) -> list[tuple[int, int, float]]:
    """List the removals on the lower convex hull, as (from, to, error per saving), by rising price.

    >>> worthwhile([(8, 1.0, 1.0), (16, 1.5, 3.0), (32, 4.0, 6.0)])  # 32 has a lower price than 16
    [(0, 8, 1.0), (8, 32, 1.6666666666666667)]
    """
    hull: list[Offer] = [(0, 0.0, 0.0)]
    for point in sorted(points, key=lambda each: (each[1], each[2])):
        if point[1] <= hull[-1][1]:
            continue  # no additional saving
        while len(hull) > 1 and _price(hull[-2], point) <= _price(hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    return [(a[0], b[0], _price(a, b)) for a, b in pairwise(hull) if b[0] > a[0]]


def _price(a: Offer, b: Offer) -> float:
    return (b[2] - a[2]) / (b[1] - a[1])


def error_at(measured: Mapping[int, float], removed: int) -> float:
    """Interpolate a measured error curve, made nondecreasing, at a number of removed channels.

    >>> error_at({2: 1.0, 4: 5.0}, 1), error_at({2: 1.0, 4: 5.0}, 3)
    (0.5, 3.0)
    """
    steps = sorted({0: 0.0, **measured}.items())
    errors = np.maximum.accumulate([error for _, error in steps])
    return float(np.interp(removed, [step for step, _ in steps], errors))
