"""FPDF: keep the least redundant filters whose norms fit the original distribution."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from slimcnn.errors import CriterionError
from slimcnn.pruning.criteria.reconstruction import refitted_costs
from slimcnn.pruning.norm_bound import nearest_left, within_bound
from slimcnn.pruning.scores import Criterion, Evidence, criteria


@criteria.add("fpdf", source="Zhang, Kou, Liu 2022, Filter pruning via distribution fitting")
def fpdf(
    bins: int | None = None, norm: int = 2, fit: str = "quantiles", tau: float | None = None, redundancy: str = ""
) -> Criterion:
    r"""Keep m of n filters so that the kept norms fit the original norms and redundant filters are removed.

    1. Sort the filters by (v_i, i), v_i = ||F_i||.
    2. Cut the sorted list into m quantile groups, group k = positions floor(k n/m) ... floor((k+1) n/m) - 1.
    3. Keep one filter per group, from the smallest norms up: in the first group, the one with the largest total
       distance to all filters of the layer; in the others, the one farthest from those already kept.

    Each kept norm lies inside its quantile group, so the Kolmogorov-Smirnov distance between kept and original
    norms is at most 1/m. With `bins=B` there are B quantile groups and group b keeps m_b filters; m is distributed
    by the largest remainder method. `bins=1` considers redundancy alone. `fit="optimal"`, an ablation, ignores
    redundancy: of all subsets of m filters, it keeps the one whose norms are nearest to the original ones (least
    Wasserstein distance W1). Norms and W1 use v_i = ||F_i||_2, or ||F_i||_1 with `norm=1`.

    With `tau`, the fit is a bound and redundancy decides: filters are removed one by one, the most redundant first, as
    long as the Kolmogorov-Smirnov distance between kept and original norms can stay at most max(tau, 1/m) (see
    `within_bound`). `redundancy="reconstruction"`, the default then, removes the filter that the others replace best:
    the error of the next layers' outputs after refitting them without it is the smallest (see `reconstruction`; needs
    `data`). `redundancy="distance"` removes the filter that is nearest to another one.

    In soft filter pruning (`SoftPruning`), zeroed filters may recover, and their norms do not represent the layer's
    distribution. So the initial norms are stored sorted, and the current filters are matched to their quantiles q_k:
    min sum_k |u_k / s - q_k| over subsets in ascending order, u the current norms. Weight decay shrinks all norms:
    s is the mean of the m largest over the mean of the q_k, at most 1.

    Only the paper's abstract is public. It states that kept filters fit the norm distribution and redundant ones are
    removed; the steps above are our reconstruction. Ranked together with other layers (`scope="global"`), the norms
    divided by their mean decide *how many* filters a layer keeps, and the steps above *which*.

    Raises:
        CriterionError: bins below 1, a norm other than 1 and 2, an unknown fit or redundancy, tau outside 0 ... 1, or
            options that exclude each other.

    >>> filters = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 3.0], [3.1, 0.0]])
    >>> fpdf().choose(Evidence("conv", (filters,)), 2).tolist()
    [0, 2]
    """
    if bins is not None and not (isinstance(bins, int) and bins >= 1):
        raise CriterionError(f"fpdf: bins={bins} must be a whole number, 1 or more (default: one bin per kept filter)")
    if norm not in (1, 2):
        raise CriterionError(f"fpdf: norm={norm} must be 1 or 2")
    if fit not in ("quantiles", "optimal"):
        raise CriterionError(f"fpdf: fit={fit} must be quantiles or optimal")
    if fit == "optimal" and bins is not None:
        raise CriterionError(f"fpdf: bins={bins} needs fit=quantiles; fit=optimal has no bins")

    if tau is not None:
        return _bounded(bins, norm, fit, tau, redundancy or "reconstruction")
    if redundancy:
        raise CriterionError(f"fpdf: redundancy={redundancy} needs tau, such as tau=0.2")

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
    return Criterion(name, norms, choose, again=lambda start: _match_initial(name, norm, start))


def _bounded(bins: int | None, norm: int, fit: str, tau: float, redundancy: str) -> Criterion:
    """Return the criterion with a bound on the fit."""
    if bins is not None or fit != "quantiles":
        raise CriterionError("fpdf: tau is a bound on the fit; leave bins and fit out")
    if not 0 <= tau <= 1:
        raise CriterionError(f"fpdf: tau={tau} must be from 0 (the strictest fit) to 1 (none)")
    if redundancy not in ("reconstruction", "distance"):
        raise CriterionError(f"fpdf: redundancy={redundancy} must be reconstruction or distance")

    def norms(evidence: Evidence) -> Tensor:
        return evidence.over_layers(lambda filters: filters.norm(p=norm, dim=1))

    def choose(evidence: Evidence, m: int) -> Tensor:
        if redundancy == "distance":
            costs, remove = nearest_left(_distances(evidence))
        else:
            costs, remove = refitted_costs(evidence.readings, evidence.channels)
        return within_bound(norms(evidence), m, tau, costs, remove)

    given = (("norm", norm, 2), ("tau", f"{tau:g}", ""), ("redundancy", redundancy, "reconstruction"))
    options = ",".join(f"{key}={value}" for key, value, default in given if value != default)
    needs = "filters" if redundancy == "distance" else "filters and readings"
    return Criterion(f"fpdf:{options}", norms, choose, needs=needs)  # type: ignore[arg-type]


def _match_initial(name: str, norm: int, start: Mapping[str, Evidence]) -> Criterion:
    """Return a criterion that matches filters to the initial distribution of their norms."""
    means = {group: [f.norm(p=norm, dim=1).mean() for f in evidence.filters] for group, evidence in start.items()}

    def norms(evidence: Evidence) -> Tensor:
        """Divide norms by their layer's initial mean: the current mean halves when half of them are zeroed."""
        layers = zip(evidence.filters, means[evidence.group], strict=True)
        return torch.stack([f.norm(p=norm, dim=1) / mean.clamp_min(1e-30) for f, mean in layers]).mean(dim=0)

    remembered = {group: norms(evidence).sort().values for group, evidence in start.items()}

    def choose(evidence: Evidence, m: int) -> Tensor:
        u, q = norms(evidence), quantiles(remembered[evidence.group], m)
        scale = (u.sort(descending=True).values[:m].mean() / q.mean().clamp_min(1e-30)).clamp(1e-30, 1)
        return matched((u[None] / scale - q[:, None]).abs(), u)

    return Criterion(name, norms, choose)


def _distances(evidence: Evidence) -> Tensor:
    """Compute pairwise distances of filters, (n, n); over several layers, average after dividing each by its mean."""
    tables = [torch.cdist(f, f) for f in evidence.filters]
    if len(tables) == 1:
        return tables[0]
    return torch.stack([t / t.mean().clamp_min(1e-30) for t in tables]).mean(dim=0)


def fit_distribution(norms: Tensor, distances: Tensor, m: int, bins: int | None = None) -> Tensor:
    """Choose m filters by the steps of `fpdf`; ascending indices.

    Args:
        norms: (n,).
        distances: (n, n), pairwise.
        m: number of filters to keep, 1 ... n.
        bins: number of quantile groups; None: m.
    """
    n = len(norms)
    order = norms.argsort(stable=True)
    parts = min(bins or m, n)  # more would be empty
    edges = [k * n // parts for k in range(parts + 1)]
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
    """Compute the mean norm in each of m equal parts of a distribution, ascending: (n,) sorted -> (m,).

    >>> quantiles(torch.tensor([1.0, 2.0, 3.0]), 2).tolist()
    [1.3333333333333333, 2.6666666666666665]
    """
    return _cells(len(norms), m) @ norms.double()


def cell_distances(values: Tensor, norms: Tensor, m: int) -> Tensor:
    """Compute the mean distance from each value to each of m equal parts of a distribution: (m, values).

    The sum over k of entry (k, k-th smallest kept value), divided by m, is W1 between both distributions.
    """
    return _cells(len(norms), m) @ (values[None].double() - norms[:, None].double()).abs()


def _cells(n: int, m: int) -> Tensor:
    """Compute the weights of the n members of a sorted sample in each of its m equal parts: (m, n), rows sum to 1."""
    edges = torch.arange(m + 1, dtype=torch.float64) * n / m
    member = torch.arange(n, dtype=torch.float64)
    inside = torch.minimum(edges[1:, None], member + 1) - torch.maximum(edges[:-1, None], member)
    return inside.clamp_min(0) * m / n


def matched(costs: Tensor, norms: Tensor) -> Tensor:
    """Assign one filter to each of m places, norms ascending, with the least total cost; return their indices.

    Dynamic programming over the filters in the order of (norm, index), O(n m); at equal cost, the earlier filters.

    Args:
        costs: (m, n), cost of every filter at every place.
        norms: (n,).

    >>> matched(torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 5.0]]), torch.tensor([1.0, 2.0, 3.0])).tolist()
    [0, 1]
    """
    order = norms.argsort(stable=True)
    table = costs[:, order].numpy()
    m, n = table.shape
    came: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    before = np.zeros(n)  # for each filter: the least cost of filling the places before this one with earlier filters
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
    """Distribute m in proportion to sizes, in whole numbers; the largest remainders are rounded up first.

    >>> _largest_remainder([3, 3, 4], 5)
    [2, 1, 2]
    """
    n = sum(sizes)
    shares = [size * m // n for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda b: (-(sizes[b] * m % n), b))
    for b in by_remainder[: m - sum(shares)]:
        shares[b] += 1
    return shares
