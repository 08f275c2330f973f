"""What training makes small: an objective is a function of a network and one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from slimcnn.errors import ModelError, RecipeError


@dataclass(frozen=True)
class Loss:
    """The named terms of a loss, and the logits that they were computed from.

    >>> import torch
    >>> Loss({"cross_entropy": torch.tensor(0.5), "kd": torch.tensor(1.5)}, torch.zeros(2, 10)).total
    tensor(2.)
    """

    terms: Mapping[str, Tensor]
    """Scalars, each a mean over the batch; their sum is what is minimised."""
    logits: Tensor
    """`(n, classes)`, the network's answer, from which the training accuracy is counted."""

    @property
    def total(self) -> Tensor:
        """The sum of the terms: the scalar that is differentiated."""
        first, *others = self.terms.values()
        for term in others:
            first = first + term
        return first


Objective = Callable[[nn.Module, Tensor, Tensor], Loss]
"""(network, images `(n, c, h, w)`, labels `(n,)`) → the loss of this batch; every term is a mean over images.

One with a method `after_step(model, optimizer)` is told of every step of the optimizer, and may change weights then.
"""


def cross_entropy(label_smoothing: float = 0.0) -> Objective:
    """Cross entropy between the network's softmax and the labels, mean over the batch.

    Smoothing `s` in [0, 1) mixes the label with the uniform distribution (Szegedy et al. 2016):
    `q = (1 - s) · onehot(y) + s / classes`.  Computed in float32 whatever the network's precision.

    >>> import torch
    >>> loss = cross_entropy()(torch.nn.Flatten(), torch.zeros(2, 4, 1, 1), torch.tensor([0, 3]))
    >>> {name: round(term.item(), 4) for name, term in loss.terms.items()}   # log 4
    {'cross_entropy': 1.3863}
    """
    if not 0 <= label_smoothing < 1:
        raise RecipeError(f"label_smoothing is {label_smoothing}: give a number of at least 0 and below 1")

    def objective(model: nn.Module, x: Tensor, y: Tensor) -> Loss:
        logits = class_scores(model(x), len(x))
        return Loss({"cross_entropy": F.cross_entropy(logits.float(), y, label_smoothing=label_smoothing)}, logits)

    return objective


def class_scores(output: object, images: int) -> Tensor:
    """The network's output, if it is what a classifier's should be; `ModelError` otherwise.

    >>> import torch
    >>> class_scores(torch.zeros(2, 10), images=2).shape
    torch.Size([2, 10])
    >>> class_scores(torch.zeros(2, 10, 4), images=2)
    Traceback (most recent call last):
    slimcnn.errors.ModelError: the network answers 2 images with a tensor (2, 10, 4): a classifier answers (2, classes)
    """
    if not isinstance(output, Tensor):
        found = f"a {type(output).__name__}"
    elif output.dim() != 2 or len(output) != images:
        found = f"a tensor {tuple(output.shape)}"
    else:
        return output
    raise ModelError(f"the network answers {images} images with {found}: a classifier answers ({images}, classes)")
