"""Cross entropy, the standard objective of classification."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from slimcnn.errors import RecipeError
from slimcnn.objectives.terms import Seen, Term, Terms


def cross_entropy(label_smoothing: float = 0.0) -> Terms:
    """Cross entropy between the network's softmax and the labels, mean over the batch.

    Label smoothing `s` in [0, 1) mixes the label with the uniform distribution (Szegedy et al. 2016):
    `q = (1 - s) · onehot(y) + s / classes`. Always computed in float32.

    >>> import torch
    >>> loss = cross_entropy()(torch.nn.Flatten(), torch.zeros(2, 4, 1, 1), torch.tensor([0, 3]))
    >>> {name: round(term.item(), 4) for name, term in loss.terms.items()}   # log 4
    {'cross_entropy': 1.3863}
    """
    if not 0 <= label_smoothing < 1:
        raise RecipeError(f"label_smoothing={label_smoothing}: give a number of at least 0 and below 1")

    def value(seen: Seen) -> Tensor:
        return F.cross_entropy(seen.logits.float(), seen.y, label_smoothing=label_smoothing)

    return Terms(Term("cross_entropy", value))
