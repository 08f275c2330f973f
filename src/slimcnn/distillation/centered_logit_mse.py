"""Squared error of logits, centered per sample (Ba, Caruana 2014, arXiv 1312.6184)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from slimcnn.distillation.checking import same_classes
from slimcnn.distillation.teachers import Teacher, teacher_of
from slimcnn.distillation.terms import losses
from slimcnn.objectives import Seen, Term, Terms


def centered_logit_mse_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Compute the mean of ((z^s - mean z^s) - (z^t - mean z^t))² over samples and classes; (n, classes) each.

    This is the unweighted case of the scale factor loss: all pairs of classes, labels are not used.

    >>> import torch
    >>> z = torch.tensor([[1.0, 3.0]])
    >>> centered_logit_mse_loss(z + 7, z), centered_logit_mse_loss(z * 2, z)
    (tensor(0.), tensor(1.))
    """
    same_classes(student_logits, teacher_logits)
    student, teacher = student_logits.float(), teacher_logits.detach().float()
    return F.mse_loss(student - student.mean(dim=1, keepdim=True), teacher - teacher.mean(dim=1, keepdim=True))


@losses.add("centered_logit_mse", source="Ba, Caruana 2014, arXiv 1312.6184", weight=0.1)
def centered_logit_mse(teacher: Teacher | nn.Module, warmup: float = 0.0) -> Terms:
    """Squared error of centered logits; see `centered_logit_mse_loss`."""
    taught = teacher_of(teacher)

    def value(seen: Seen) -> Tensor:
        return centered_logit_mse_loss(seen.logits, seen.answers[taught])

    return Terms(Term("centered_logit_mse", value, teacher=taught, warmup=warmup))
