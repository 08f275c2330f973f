"""How close a network finds classes to each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from slimcnn.datasets import Images, Normalisation, batches
from slimcnn.distillation.scale_factor import class_factors

TEMPERATURE = 4.0


@torch.no_grad()
def closeness_of(
    network: nn.Module, images: Images, normalisation: Normalisation, classes: Sequence[str]
) -> tuple[tuple[float, ...], ...]:
    """Entry (i, j): the mean, over images of class i, of log(q_j / q_i) with q the softmax at temperature 4.

    0 on the diagonal; the nearer to 0, the closer class j is to images of class i.

    >>> from slimcnn.datasets import load_dataset
    >>> data = load_dataset("digits")
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> found = closeness_of(network, data.validation, data.normalisation, data.classes)
    >>> len(found), len(found[0]), found[3][3]
    (10, 10, 0.0)
    """
    home = next(network.parameters()).device
    feed = batches(images, 256, normalisation=normalisation, device=home)
    answers = [(network.eval()(x).float().cpu(), y.cpu()) for x, y in feed]
    logits, labels = (torch.cat(parts) for parts in zip(*answers, strict=True))
    found = class_factors(logits[:, : len(classes)], labels, TEMPERATURE)
    return tuple(tuple(round(value, 4) for value in row) for row in found.tolist())
