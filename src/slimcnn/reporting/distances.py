"""Distances between two samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ks_distance(a: Sequence[float], b: Sequence[float]) -> float:
    """Compute the two-sample Kolmogorov-Smirnov distance: sup over t of ``|F_a(t) - F_b(t)|``, 0 to 1.

    ``F`` is the share of a sample that is at most t (Massey 1951). If a sample contains NaN, the distance is NaN. An
    empty sample raises `ValueError`.

    >>> ks_distance([1.0, 2.0, 3.0, 4.0], [1.0, 2.0])
    0.5
    >>> ks_distance([1.0, 2.0], [3.0])
    1.0
    """
    if not len(a) or not len(b):
        raise ValueError(f"a KS distance needs two samples, found {len(a)} and {len(b)} values; leave out empty ones")
    first, second = np.sort(np.asarray(a, dtype=np.float64)), np.sort(np.asarray(b, dtype=np.float64))
    if np.isnan(first[-1]) or np.isnan(second[-1]):  # NaN sorts last
        return float("nan")
    steps = np.concatenate([first, second])
    below_first = np.searchsorted(first, steps, side="right") / len(first)
    below_second = np.searchsorted(second, steps, side="right") / len(second)
    return float(np.abs(below_first - below_second).max())


def w1_distance(a: Sequence[float], b: Sequence[float]) -> float:
    """Compute the Wasserstein distance W1: the area between the samples' distribution functions, in their unit.

    >>> w1_distance([0.0, 1.0], [1.0, 2.0])
    1.0
    """
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(a, b))
