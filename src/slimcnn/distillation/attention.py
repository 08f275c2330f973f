"""Attention transfer: match spatial attention maps (Zagoruyko, Komodakis 2017, arXiv 1612.03928)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from slimcnn.distillation.teachers import Teacher, comparing
from slimcnn.distillation.terms import losses
from slimcnn.objectives import Terms


def attention_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Compute the mean of (A_s - A_t)², A = Q / |Q|, Q = mean over channels of F², flattened.

    (n, c, h, w) each; c may differ, and features are averaged to the smaller size if sizes differ.

    Source: equation 2 with p = 2, as in the authors' code (a mean, not a sum).

    >>> import torch
    >>> x = torch.rand(2, 3, 4, 4)
    >>> attention_loss(x, 5 * x.repeat(1, 2, 1, 1)).item() < 1e-10
    True
    """
    size = [min(a, b) for a, b in zip(student_features.shape[2:], teacher_features.shape[2:], strict=True)]
    student, teacher = (
        _attention(features.float(), (size[0], size[1])) for features in (student_features, teacher_features.detach())
    )
    return (student - teacher).square().mean()


def _attention(features: Tensor, size: tuple[int, int]) -> Tensor:
    squared = F.adaptive_avg_pool2d(features.square().mean(dim=1, keepdim=True), size)
    return F.normalize(squared.flatten(1), dim=1)


@losses.add("attention", source="Zagoruyko, Komodakis 2017, arXiv 1612.03928", weight=1000.0, compares_features=True)
def attention(teacher: Teacher | nn.Module, layer: str = "", teacher_layer: str = "") -> Terms:
    """Attention maps of a student `layer` and a `teacher_layer` (default: the same name); see `attention_loss`."""
    return comparing("attention", attention_loss, teacher, layer, teacher_layer)
