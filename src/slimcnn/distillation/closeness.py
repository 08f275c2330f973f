"""Measure how close classes are in a network's outputs, and list the closest pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from slimcnn.distillation.scale_factor import class_factors
from slimcnn.modes import modes_restored

Matrix = tuple[tuple[float, ...], ...]
"""A square matrix with one row and one column per class."""

TEMPERATURE = 4.0


@torch.no_grad()
def closeness_of(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> Matrix:
    """Compute the class closeness: entry (i, j) is the mean of log(q_j / q_i) over images of class i.

    q is the softmax at temperature 4. The diagonal is 0; the nearer to 0, the closer class j is to images of class i.
    A class without images has a row of zeros. The network runs in eval mode on its device; its modes are restored.

    Args:
        network: returns logits (n, at least `classes`).
        batches: normalized images (n, c, h, w) and labels (n,).
        classes: number of classes.

    >>> network = nn.Linear(2, 2)
    >>> _ = network.weight.data.copy_(torch.eye(2)), network.bias.data.zero_()
    >>> closeness_of(network, [(torch.tensor([[4.0, 0.0], [0.0, 8.0]]), torch.tensor([0, 1]))], 2)
    ((0.0, -1.0), (-2.0, 0.0))
    """
    device = next(network.parameters()).device
    with modes_restored(network):
        network.eval()
        answers = [(network(x.to(device)).float().cpu(), y.cpu()) for x, y in batches]
    logits, labels = (torch.cat(parts) for parts in zip(*answers, strict=True))
    found = class_factors(logits[:, :classes], labels, TEMPERATURE)
    return tuple(tuple(round(value, 4) for value in row) for row in found.tolist())


def closest_pairs(
    classes: Sequence[str], networks: Mapping[str, Matrix], n: int = 10
) -> list[tuple[str, str, tuple[float, ...]]]:
    """Return the `n` closest pairs of the first network: (class of the images, other class, log ratio per network).

    >>> closest_pairs(("cat", "dog"), {"teacher": ((0, -1.0), (-2.0, 0)), "student": ((0, -3.0), (-2.5, 0))}, 1)
    [('cat', 'dog', (-1.0, -3.0))]
    """
    first = next(iter(networks.values()))
    places = [(i, j) for i in range(len(classes)) for j in range(len(classes)) if i != j]
    places.sort(key=lambda place: -first[place[0]][place[1]])
    return [(classes[i], classes[j], tuple(matrix[i][j] for matrix in networks.values())) for i, j in places[:n]]
