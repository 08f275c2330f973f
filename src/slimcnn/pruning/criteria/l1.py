"""L1 norm of filters."""

from __future__ import annotations

from slimcnn.pruning.scores import Criterion, criteria


@criteria.add("l1", source="Li et al. 2017, Pruning filters for efficient ConvNets (arXiv 1608.08710)")
def l1() -> Criterion:
    r"""Score channel i by the L1 norm of its filter, s_i = ||F_i||_1.

    F_i holds all weights that produce the channel, (c_in, k, k) flattened. For ranking across layers, each layer's
    norms are divided by their mean. This is the paper's criterion.

    >>> import torch
    >>> from slimcnn.pruning.scores import Evidence
    >>> l1().score(Evidence("conv", (torch.tensor([[3.0, -4.0], [0.0, 1.0]]),))).tolist()
    [7.0, 1.0]
    """
    return Criterion("l1", lambda evidence: evidence.over_layers(lambda filters: filters.norm(p=1, dim=1)))
