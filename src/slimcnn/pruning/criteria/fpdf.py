"""FPDF: keep filters whose norms fit the original distribution, and of those the least redundant."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from slimcnn.errors import CriterionError
from slimcnn.pruning.scores import Criterion, Evidence, criteria


@criteria.add("fpdf", source="Zhang, Kou, Liu 2022, Filter pruning via distribution fitting")
def fpdf(bins: int | None = None, norm: int = 2, fit: str = "quantiles") -> Criterion:
    r"""Keep m of n filters so that the kept norms fit the original norms and redundant filters go.

    1. Sort the filters by (v_i, i), v_i = ||F_i||.
    2. Cut the sorted list into m quantile groups, group k = positions floor(k n/m) ... floor((k+1) n/m) - 1.
    3. Keep one filter per group, from the smallest norms up: in the first group the one with the largest total
       distance to all filters of the layer, then the one farthest from those already kept.

    Each kept norm lies inside its quantile group, so the Kolmogorov-Smirnov distance between kept and original
    norms is at most 1/m. With `bins=B` there are B quantile groups and group b keeps m_b filters, m shared out
    by largest remainder; `bins=1` looks at redundancy alone. With `fit="optimal"` redundancy does not count: of all
    subsets of m filters the one whose norms are nearest to the original ones (least Wasserstein distance W1) is
    kept, an ablation. Norms and W1 are of v_i = ||F_i||_2, or ||F_i||_1 with `norm=1`.

    In soft training (`SoftPruning`) filters come back, and the norms of those that were zeroed say nothing of the
    layer's distribution. So the sorted norms of the beginning are remembered, and the filters are matched to their
    quantiles q_k anew: min sum_k |u_k / s - q_k| over subsets in ascending order, u the current norms. Weight decay
    makes all norms smaller: s is the mean of the m largest over the mean of the q_k, at most 1.

    The paper is public as an abstract only: that kept filters fit the norm distribution and redundant ones go is
    the authors', the steps above are our reconstruction. Ranked together with other layers (`scope="global"`),
    the norms divided by their mean decide *how many* filters a layer keeps, and the steps above *which*.

    Raises:
        CriterionError: bins below 1, a norm other than 1 and 2, an unknown fit, or bins with `fit="optimal"`.

    >>> filters = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 3.0], [3.1, 0.0]])
    >>> fpdf().choose(Evidence("conv", (filters,)), 2).tolist()
    [0, 2]
    """
    if bins is not None and not (isinstance(bins, int) and bins >= 1):
        raise CriterionError(f"fpdf: bins={bins} must be a whole number, 1 or more (left out: one bin per kept filter)")
    if norm not in (1, 2):
        raise CriterionError(f"fpdf: norm={norm} must be 1 or 2")
    if fit not in ("quantiles", "optimal"):
        raise CriterionError(f"fpdf: fit={fit} must be quantiles or optimal")
    if fit == "optimal" and bins is not None:
        raise CriterionError(f"fpdf: bins={bins} is for fit=quantiles; fit=optimal has none")

    def norms(evidence: Evidence) -> Tensor:
        return evidence.over_layers(lambda filters: filters.norm(p=norm, dim=1))

    def choose(evidence: Evidence, m: int) -> Tensor:
        if fit == "optimal":
            v = norms(evidence)
            return matched(cell_distances(v, v.sort().values, m), v)
        return fit_distribution(norms(evidence), _distances(evidence), m, bins)

    given = (("bins", bins, None), ("norm", norm, 2), ("fit", fit, "quantiles"))
    options = ",".join(f"{key}={value}" for key, value, default in given if value != default)
    name = "fpdf" + (f":{options}" if options else "")
    return Criterion(name, norms, choose, again=lambda start: _following(name, norm, start))


def _following(name: str, norm: int, start: Mapping[str, Evidence]) -> Criterion:
    """Match filters to the distribution that their norms had at the start."""
    means = {group: [f.norm(p=norm, dim=1).mean() for f in evidence.filters] for group, evidence in start.items()}

    def norms(evidence: Evidence) -> Tensor:
        """Divide norms by their layer's mean at the start: that of now halves when half of them are zeroed."""
        layers = zip(evidence.filters, means[evidence.group], strict=True)
        return torch.stack([f.norm(p=norm, dim=1) / mean.clamp_min(1e-30) for f, mean in layers]).mean(dim=0)

    remembered = {group: norms(evidence).sort().values for group, evidence in start.items()}

    def choose(evidence: Evidence, m: int) -> Tensor:
        u, q = norms(evidence), quantiles(remembered[evidence.group], m)
        scale = (u.sort(descending=True).values[:m].mean() / q.mean().clamp_min(1e-30)).clamp(1e-30, 1)
        return matched((u[None] / scale - q[:, None]).abs(), u)

    return Criterion(name, norms, choose)


def _distances(evidence: Evidence) -> Tensor:
    """Compute pairwise distances of filters, (n, n); over several layers the mean, each divided by its own."""
    tables = [torch.cdist(f, f) for f in evidence.filters]
    if len(tables) == 1:
        return tables[0]
    return torch.stack([t / t.mean().clamp_min(1e-30) for t in tables]).mean(dim=0)


def fit_distribution(norms: Tensor, distances: Tensor, m: int, bins: int | None = None) -> Tensor:
    """Choose m filters by the steps of `fpdf`; ascending.

    Args:
        norms: (n,).
        distances: (n, n), pairwise.
        m: how many to keep, 1 ... n.
        bins: quantile groups; None means m of them.
    """
    n = len(norms)
    order = norms.argsort(stable=True)
    edges = [k * n // (bins or m) for k in range((bins or m) + 1)]
    shares = _largest_remainder([b - a for a, b in pairwise(edges)], m)
    total = distances.sum(dim=1)
    nearest = torch.full((n,), torch.inf, dtype=distances.dtype)
    kept: list[int] = []
    for (start, end), share in zip(pairwise(edges), shares, strict=True):
        candidates = order[start:end]
        for _ in range(share):
            worth = nearest[candidates] if kept else total[candidates]
            best = int(candidates[int(worth.argmax())])
            kept.append(best)
            nearest = torch.minimum(nearest, distances[best])
            nearest[best] = -1.0
    return torch.tensor(sorted(kept))


def quantiles(norms: Tensor, m: int) -> Tensor:
    """Give the mean norm in each of m equal parts of a distribution, ascending: (n,) sorted -> (m,).

    >>> quantiles(torch.tensor([1.0, 2.0, 3.0]), 2).tolist()
    [1.3333333333333333, 2.6666666666666665]
    """
    return _cells(len(norms), m) @ norms.double()


def cell_distances(values: Tensor, norms: Tensor, m: int) -> Tensor:
    """Give the mean distance from each value to each of m equal parts of a distribution: (m, values).

    Summed over k for the k-th smallest value that is kept, and divided by m, that is W1 between both.
    """
    return _cells(len(norms), m) @ (values[None].double() - norms[:, None].double()).abs()


def _cells(n: int, m: int) -> Tensor:
    """Say how much of each of m equal parts of a sorted sample each of its n members is: rows sum to 1, (m, n)."""
    edges = torch.arange(m + 1, dtype=torch.float64) * n / m
    member = torch.arange(n, dtype=torch.float64)
    inside = torch.minimum(edges[1:, None], member + 1) - torch.maximum(edges[:-1, None], member)
    return inside.clamp_min(0) * m / n


def matched(costs: Tensor, norms: Tensor) -> Tensor:
    """Choose, with the least sum of costs, one filter for each of m places, the norms ascending; by their indices.

    Dynamic programming over the filters in the order of (norm, index), O(n m); of equal sums the earlier filters.

    Args:
        costs: (m, n), of every filter at every place.
        norms: (n,).

    >>> matched(torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 5.0]]), torch.tensor([1.0, 2.0, 3.0])).tolist()
    [0, 1]
    """
    order = norms.argsort(stable=True)
    table = costs[:, order].numpy()
    m, n = table.shape
    came: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    before = np.zeros(n)  # the least sum with which places before this one are filled by filters before each
    for k in range(m):
        total = before + table[k]
        least = np.minimum.accumulate(total)
        first = np.r_[True, total[1:] < least[:-1]]
        came.append(np.maximum.accumulate(np.where(first, np.arange(n), 0)))
        before = np.r_[np.inf, least[:-1]]
    chosen = []
    last = n - 1
    for k in reversed(range(m)):
        last = int(came[k][last])
        chosen.append(last)
        last -= 1
    return order[torch.tensor(chosen)].sort().values


def _largest_remainder(sizes: list[int], m: int) -> list[int]:
    """Share m out in proportion to sizes, whole numbers, the largest remainders rounded up first.

    >>> _largest_remainder([3, 3, 4], 5)
    [2, 1, 2]
    """
    n = sum(sizes)
    shares = [size * m // n for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda b: (-(sizes[b] * m % n), b))
    for b in by_remainder[: m - sum(shares)]:
        shares[b] += 1
    return shares
