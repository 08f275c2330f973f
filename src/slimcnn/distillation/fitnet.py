"""FitNet hints: match the student's features to the teacher's (Romero et al. 2014, arXiv 1412.6550)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcnn.distillation.teachers import Teacher, comparing
from slimcnn.distillation.terms import losses
from slimcnn.objectives import Terms


def fitnet_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Mean of (r(F_s) - F_t)² over all elements; (n, c, h, w) each, averaged to the smaller size if sizes differ.

    r is the identity if the numbers of channels are equal. Otherwise the paper's r is a trained convolution; here
    it is the best 1x1 convolution for this batch by least squares (`regressed`): nothing more to train, save or tune,
    and the gradient is that of the minimum.

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
    """Return W F_s + b, (n, c_t, h, w), with W and b fitted to the teacher's features of this batch by least squares.

    `ridge` is relative to the mean variance of F_s; W and b are constants for the gradient.
    """
    inputs, outputs = (features.movedim(1, -1).flatten(0, -2) for features in (student, teacher))
    with torch.no_grad():
        means = inputs.mean(0), outputs.mean(0)
        centered = (inputs - means[0]).double()
        gram = centered.T @ centered
        gram.diagonal().add_(ridge * gram.diagonal().mean() + 1e-12)
        weight = torch.linalg.solve(gram, centered.T @ (outputs - means[1]).double()).to(inputs.dtype)
    fitted = (inputs - means[0]) @ weight + means[1]
    mapped: Tensor = fitted.unflatten(0, (len(student), *student.shape[2:])).movedim(-1, 1)
    return mapped


@losses.add("fitnet", source="Romero et al. 2014, arXiv 1412.6550", weight=100.0, compares_features=True)
def fitnet(teacher: Teacher | nn.Module, layer: str = "", teacher_layer: str = "") -> Terms:
    """Elementwise error of a layer's output, mapped to the teacher's width if widths differ; see `fitnet_loss`."""
    return comparing("fitnet", fitnet_loss, teacher, layer, teacher_layer)
