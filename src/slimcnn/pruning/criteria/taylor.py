"""Taylor expansion: the change of the loss without the channel, to first order."""

from __future__ import annotations

from torch import Tensor

from slimcnn.pruning.scores import Criterion, Evidence, criteria


@criteria.add("taylor", source="Molchanov et al. 2019, Importance estimation for neural network pruning (1906.10771)")
def taylor() -> Criterion:
    r"""Score channel i by (sum over its filters' weights of g_w w)^2, averaged over batches.

    g_w is the gradient of the cross-entropy; the network is in eval mode. The scores of all layers estimate the same
    quantity, the squared change of the loss, so they are compared without normalization. Needs `data`.

    >>> import torch
    >>> taylor().score(Evidence("conv", contributions=torch.tensor([[1.0, -2.0], [3.0, 0.0]]))).tolist()
    [5.0, 2.0]
    """

    def squared_change(evidence: Evidence) -> Tensor:
        assert evidence.contributions is not None
        return evidence.contributions.square().mean(dim=0)

    return Criterion("taylor", squared_change, needs="contributions", comparable=True)
