"""Hints: the student's features shall be the teacher's (Romero et al. 2014, arXiv 1412.6550)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def fitnet_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Mean of (r(F_s) - F_t)² over everything; (n, c, h, w) each, averaged to the smaller size where sizes differ.

    `student_features` are mapped to the teacher's channels already (r is a 1x1 convolution that learns along).

    >>> import torch
    >>> fitnet_loss(torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 2, 2))
    tensor(1.)
    """
    size = [min(a, b) for a, b in zip(student_features.shape[2:], teacher_features.shape[2:], strict=True)]
    student, teacher = (
        F.adaptive_avg_pool2d(features.float(), (size[0], size[1]))
        for features in (student_features, teacher_features.detach())
    )
    return F.mse_loss(student, teacher)
