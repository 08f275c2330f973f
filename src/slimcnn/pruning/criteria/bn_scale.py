"""Network slimming: the scale of the batch norm behind a channel."""

from __future__ import annotations

import torch
from torch import Tensor

from slimcnn.pruning.scores import Criterion, Evidence, criteria


@criteria.add("bn_scale", source="Liu et al. 2017, Network slimming (arXiv 1708.06519)")
def bn_scale() -> Criterion:
    """Score channel i by |gamma_i| of its batch norm; the mean where several norms share the channel.

    Scales are ranked over the whole network without normalization, as in the paper. They are most informative after
    sparsity training. Groups without a batch norm are not scored and keep all their channels.

    >>> bn_scale().score(Evidence("conv", scales=(torch.tensor([-0.5, 0.1]),))).tolist()
    [0.5, 0.10000000149011612]
    """

    def scale(evidence: Evidence) -> Tensor:
        return torch.stack(evidence.scales).abs().mean(dim=0)

    return Criterion("bn_scale", scale, needs="scales", comparable=True)
