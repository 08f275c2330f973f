"""Hints: the student's features shall be the teacher's (Romero et al. 2014, arXiv 1412.6550)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcnn.distillation.teachers import Teacher, comparing
from slimcnn.distillation.terms import losses
from slimcnn.objectives import Terms


def fitnet_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Mean of (r(F_s) - F_t)² over everything; (n, c, h, w) each, averaged to the smaller size where sizes differ.

    r is the identity where both have as many channels. Elsewhere the paper's r is a convolution that learns; here
    it is the 1x1 convolution that is best for this batch, solved by least squares (`regressed`): nothing more to train,
    to save or to tune, and the gradient is that of the minimum.

    >>> import torch
    >>> fitnet_loss(torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 2, 2))
    tensor(1.)
    """
    size = [min(a, b) for a, b in zip(student_features.shape[2:], teacher_features.shape[2:], strict=True)]
    student, teacher = (
        F.adaptive_avg_pool2d(features.float(), (size[0], size[1]))
        for features in (student_features, teacher_features.detach())
    )
    return F.mse_loss(student if student.shape[1] == teacher.shape[1] else regressed(student, teacher), teacher)


def regressed(student: Tensor, teacher: Tensor, ridge: float = 1e-3) -> Tensor:
    """W F_s + b, (n, c_t, h, w), with the W and b that come nearest to the teacher's features in this batch.

    `ridge` is a share of the mean of F_s's variances; W and b are constants for the gradient.
    """
    inputs, outputs = (features.movedim(1, -1).flatten(0, -2) for features in (student, teacher))
    with torch.no_grad():
        means = inputs.mean(0), outputs.mean(0)
        centered = (inputs - means[0]).double()
        gram = centered.T @ centered
        gram.diagonal().add_(ridge * gram.diagonal().mean() + 1e-12)
        weight = torch.linalg.solve(gram, centered.T @ (outputs - means[1]).double()).to(inputs.dtype)
    made = (inputs - means[0]) @ weight + means[1]
    mapped: Tensor = made.unflatten(0, (len(student), *student.shape[2:])).movedim(-1, 1)
    return mapped


@losses.add("fitnet", source="Romero et al. 2014, arXiv 1412.6550", weight=100.0)
def fitnet(teacher: Teacher | nn.Module, layer: str = "", teacher_layer: str = "") -> Terms:
    """What a layer makes, number by number, mapped to the teacher's width where widths differ; see `fitnet_loss`."""
    return comparing("fitnet", fitnet_loss, teacher, layer, teacher_layer)
