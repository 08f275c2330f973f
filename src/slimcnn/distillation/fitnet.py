"""Hints: the student's features shall be the teacher's (Romero et al. 2014, arXiv 1412.6550)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from slimcnn.distillation.teachers import Teacher, comparing
from slimcnn.distillation.terms import losses
from slimcnn.errors import ModelError
from slimcnn.objectives import Terms


def fitnet_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Mean of (F_s - F_t)² over everything; (n, c, h, w) each, averaged to the smaller size where sizes differ.

    The paper maps the student's features to the teacher's width by a convolution r that learns along; here both have as
    many channels, as a network and what was cut or rewritten of it often do.

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


@losses.add("fitnet", source="Romero et al. 2014, arXiv 1412.6550", weight=100.0)
def fitnet(teacher: Teacher | nn.Module, layer: str = "", teacher_layer: str = "") -> Terms:
    """What a layer makes, number by number; both must have as many channels; see `fitnet_loss`."""

    def loss(student: Tensor, taught: Tensor) -> Tensor:
        if student.shape[1] != taught.shape[1]:
            raise ModelError(
                f"fitnet compares channels one with one: {layer!r} makes {student.shape[1]}, the teacher's "
                f"{teacher_layer or layer!r} {taught.shape[1]}; compare attention instead, or take other layers"
            )
        return fitnet_loss(student, taught)

    return comparing("fitnet", loss, teacher, layer, teacher_layer)
