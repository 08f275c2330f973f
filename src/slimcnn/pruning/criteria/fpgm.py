"""FPGM: filters near the geometric median are redundant."""

from __future__ import annotations

import torch
from torch import Tensor

from slimcnn.pruning.scores import Criterion, criteria


@criteria.add("fpgm", source="He et al. 2019, Filter pruning via geometric median (arXiv 1811.00250)")
def fpgm() -> Criterion:
    r"""Score channel i by the total distance from its filter to the layer's others, g_i = sum_j ||F_i - F_j||_2.

    The filter with the smallest sum is nearest to the geometric median, so the others can replace it.

    >>> from slimcnn.pruning.scores import Evidence
    >>> fpgm().score(Evidence("conv", (torch.tensor([[0.0], [1.0], [5.0]]),))).tolist()
    [6.0, 5.0, 9.0]
    """
    return Criterion("fpgm", lambda evidence: evidence.over_layers(total_distance))


def total_distance(filters: Tensor) -> Tensor:
    """Sum the Euclidean distances from each filter to all filters, (n, values) -> (n,)."""
    return torch.cdist(filters, filters).sum(dim=1)
