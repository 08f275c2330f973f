"""Relational distillation: distances and angles between the samples of a batch (Park et al. 2019, arXiv 1904.05068)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcnn.distillation.teachers import Teacher, comparing
from slimcnn.distillation.terms import losses
from slimcnn.objectives import Terms


def rkd_loss(student: Tensor, teacher: Tensor, distance: float = 25.0, angle: float = 50.0) -> Tensor:
    """Compute distance · L_D + angle · L_A on embeddings (n, d): Huber losses of relations; d may differ.

    L_D compares the distances of all pairs, divided by their mean. L_A compares the cosines of the angles of all
    triples of samples. Memory grows with n³ for angles.

    Source: equations 6 to 9; weights as in the authors' code for classification.

    >>> x = torch.randn(5, 3)
    >>> rkd_loss(4 * x, x).item() < 1e-6
    True
    """
    student, teacher = student.float(), teacher.detach().float()
    loss = student.new_zeros(())
    if distance:
        loss = loss + distance * F.smooth_l1_loss(_distances(student), _distances(teacher))
    if angle:
        loss = loss + angle * F.smooth_l1_loss(_angles(student), _angles(teacher))
    return loss


def _distances(x: Tensor) -> Tensor:
    """Return the distances of all pairs, divided by the mean of the nonzero ones: (n, n)."""
    square = x.square().sum(dim=1)
    found = (square[:, None] + square - 2 * x @ x.T).clamp_min(1e-12).sqrt()
    found = found * (1 - torch.eye(len(x), device=x.device))
    return found / found[found > 0].mean()


def _angles(x: Tensor) -> Tensor:
    """Return the cosines of the angles at each sample between all pairs of samples: (n, n, n)."""
    rays = F.normalize(x[None] - x[:, None], dim=2)
    return rays @ rays.transpose(1, 2)


@losses.add("rkd", source="Park et al. 2019, arXiv 1904.05068", weight=1.0, compares_features=True)
def rkd(
    teacher: Teacher | nn.Module, layer: str = "", teacher_layer: str = "", distance: float = 25.0, angle: float = 50.0
) -> Terms:
    """Distances and angles between images in the spatially averaged output of a layer; see `rkd_loss`."""

    def loss(student: Tensor, taught: Tensor) -> Tensor:
        embedded = [output.flatten(2).mean(2) if output.dim() > 2 else output for output in (student, taught)]
        return rkd_loss(embedded[0], embedded[1], distance, angle)

    return comparing("rkd", loss, teacher, layer, teacher_layer)
