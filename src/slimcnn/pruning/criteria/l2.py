"""L2 norm of filters."""

from __future__ import annotations

from slimcnn.pruning.scores import Criterion, criteria


@criteria.add("l2", source="Li et al. 2017, Pruning filters for efficient ConvNets (arXiv 1608.08710)")
def l2() -> Criterion:
    r"""Score channel i by the L2 norm of its filter, s_i = ||F_i||_2.

    F_i holds all weights that produce the channel, (c_in, k, k) flattened. For ranking across layers, each layer's
    norms are divided by their mean. The paper uses L1 and reports that L2 selects nearly the same filters.

    >>> import torch
    >>> from slimcnn.pruning.scores import Evidence
    >>> l2().score(Evidence("conv", (torch.tensor([[3.0, -4.0], [0.0, 1.0]]),))).tolist()
    [5.0, 1.0]
    """
    return Criterion("l2", lambda evidence: evidence.over_layers(lambda filters: filters.norm(p=2, dim=1)))
