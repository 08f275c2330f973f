"""Remove redundant filters while the norms of the others fit the original distribution."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

ROUNDING = 1e-9
"""Tolerance of bounds, in filters: tau is a float."""


def within_bound(
    norms: Tensor, m: int, tau: float, costs: Callable[[], Tensor], remove: Callable[[int], None]
) -> Tensor:
    r"""Remove filters one by one, the cheapest first, under a bound on the distance of norm distributions.

    With the filters sorted by (norm, index) and k_j of the kept ones among the first j, a removal is allowed only if
    m filters can still be kept with

        | k_j / m - j / n | <= max(tau, 1/m)   for every j.

    So the Kolmogorov-Smirnov distance between kept and original norms is at most max(tau, 1/m). At tau = 0, every
    filter's place in the distribution counts; at tau = 1, only its cost.

    Args:
        norms: (n,).
        m: number of filters to keep, 1 ... n.
        tau: bound, 0 ... 1.
        costs: returns the cost of removing each filter now, (n,).
        remove: called after each removal with the filter.

    Returns:
        The kept filters, ascending.

    >>> cost = torch.tensor([1.0, 2.0, 3.0, 4.0])
    >>> norms = torch.tensor([4.0, 3.0, 2.0, 1.0])
    >>> [within_bound(norms, 2, tau, lambda: cost, lambda _: None).tolist() for tau in (1.0, 0.0)]
    [[2, 3], [2, 3]]
    """
    n = len(norms)
    order = norms.argsort(stable=True).tolist()
    place = {filter_: position for position, filter_ in enumerate(order)}
    bound = Bound(n, m, tau)
    left = torch.ones(n, dtype=torch.bool)
    for _ in range(n - m):
        for candidate in costs().masked_fill(~left, torch.inf).argsort(stable=True).tolist():
            if left[candidate] and bound.allows(place[candidate]):
                break
        bound.remove(place[candidate])
        left[candidate] = False
        remove(candidate)
    return left.nonzero().flatten()


class Bound:
    """The removals so far, by position in the order of norms, and which further ones are allowed.

    Args:
        n: number of filters.
        m: number to keep.
        tau: bound on the distance of the distributions.
    """

    def __init__(self, n: int, m: int, tau: float) -> None:
        j = np.arange(1, n + 1)
        loose = max(tau, 1 / m)
        fewest = np.ceil(m * (j / n - loose) - ROUNDING).clip(min=0)
        most = np.floor(m * (j / n + loose) + ROUNDING).clip(max=m)
        self._fewest_gone, self._most_gone = j - most, j - fewest
        self._gone = np.zeros(n, dtype=np.int64)
        self._whole = n - m

    def allows(self, position: int) -> bool:
        """Return whether m filters within the bound remain possible without the one at a position."""
        if self._gone[position]:
            return False
        self._gone[position] = 1
        possible = self._possible()
        self._gone[position] = 0
        return possible

    def remove(self, position: int) -> None:
        """Remove the filter at a position."""
        self._gone[position] = 1

    def _possible(self) -> bool:
        """Follow the smallest and the largest number of further removals in every prefix."""
        before = np.cumsum(self._gone)
        low = high = 0.0
        for here, fewest, most, gone in zip(before, self._fewest_gone, self._most_gone, self._gone, strict=True):
            low, high = max(low, fewest - here), min(high + (1 - gone), most - here)
            if low > high:
                return False
        return bool(low <= self._whole - before[-1] <= high)


def nearest_left(distances: Tensor) -> tuple[Callable[[], Tensor], Callable[[int], None]]:
    """Return costs by redundancy alone, the distance to the nearest filter left, and the function that removes one.

    Args:
        distances: (n, n), pairwise.
    """
    table = distances.clone()
    table.fill_diagonal_(math.inf)

    def remove(filter_: int) -> None:
        table[:, filter_] = math.inf

    return lambda: table.min(dim=1).values, remove
