"""FPDF: keep filters whose norms fit the original distribution, and of those the least redundant."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from slimcnn.errors import CriterionError
from slimcnn.pruning.scores import Criterion, Evidence, criteria


@criteria.add("fpdf", source="Zhang, Kou, Liu 2022, Filter pruning via distribution fitting")
def fpdf(bins: int | None = None, norm: int = 2) -> Criterion:
    r"""Keep m of n filters so that the kept norms fit the original norms and redundant filters go.

    1. Sort the filters by (v_i, i), v_i = ||F_i||.
    2. Cut the sorted list into m quantile groups, group k = positions floor(k n/m) ... floor((k+1) n/m) - 1.
    3. Keep one filter per group, from the smallest norms up: in the first group the one with the largest total
       distance to all filters of the layer, then the one farthest from those already kept.

    Each kept norm lies inside its quantile group, so the Kolmogorov-Smirnov distance between kept and original
    norms is at most 1/m.  With `bins=B` there are B quantile groups and group b keeps m_b filters, m shared out
    by largest remainder; `bins=1` looks at redundancy alone.

    The paper is public as an abstract only: that kept filters fit the norm distribution and redundant ones go is
    the authors', the steps above are our reconstruction.  Ranked together with other layers (`scope="global"`),
    the norms divided by their mean decide *how many* filters a layer keeps, and the steps above *which*.

    Raises:
        CriterionError: bins below 1, or a norm other than 1 and 2.

    >>> filters = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 3.0], [3.1, 0.0]])
    >>> fpdf().choose(Evidence("conv", (filters,)), 2).tolist()
    [0, 2]
    """
    if bins is not None and not (isinstance(bins, int) and bins >= 1):
        raise CriterionError(f"fpdf: bins={bins} must be a whole number, 1 or more (left out: one bin per kept filter)")
    if norm not in (1, 2):
        raise CriterionError(f"fpdf: norm={norm} must be 1 or 2")

    def norms(evidence: Evidence) -> Tensor:
        return evidence.over_layers(lambda filters: filters.norm(p=norm, dim=1))

    def choose(evidence: Evidence, m: int) -> Tensor:
        return fit_distribution(norms(evidence), _distances(evidence), m, bins)

    options = ",".join(f"{k}={v}" for k, v, d in (("bins", bins, None), ("norm", norm, 2)) if v != d)
    return Criterion("fpdf" + (f":{options}" if options else ""), norms, choose)


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
