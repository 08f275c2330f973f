"""Input checks shared by all distillation losses."""

from __future__ import annotations

from torch import Tensor

from slimcnn.errors import ModelError


def same_classes(student: Tensor, teacher: Tensor, least: int = 1) -> None:
    """Raise `ModelError` unless both are logits (n, classes) of the same classes, at least `least` of them."""
    if student.shape != teacher.shape:
        found = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ModelError(f"student and teacher have logits of shapes {found}: they must have the same classes")
    if student.dim() != 2 or student.shape[1] < least:
        raise ModelError(f"logits {tuple(student.shape)}: this loss needs (n, classes) with at least {least} classes")
