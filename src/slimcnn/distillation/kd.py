"""Softened logits (Hinton, Vinyals, Dean 2015, "Distilling the knowledge in a neural network", arXiv 1503.02531)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from slimcnn.distillation.checking import same_classes
from slimcnn.distillation.teachers import Teacher, teacher_of
from slimcnn.distillation.terms import losses
from slimcnn.errors import RecipeError
from slimcnn.objectives import Seen, Term, Terms


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Compute T² · KL(q_t ‖ q_s), the mean over the batch, with q = softmax(logits / T).

    Both logits are `(n, classes)`. Computed in float32, without a gradient for the teacher. T² makes the size of the
    gradient independent of T (section 2 of the paper).

    >>> import torch
    >>> kd_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 3.0]]), temperature=4.0)   # same softmax
    tensor(0.)
    """
    same_classes(student_logits, teacher_logits)
    student = F.log_softmax(student_logits.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.detach().float() / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


@losses.add("kd", source="Hinton, Vinyals, Dean 2015, arXiv 1503.02531", weight=0.9)
def kd(teacher: Teacher | nn.Module, temperature: float = 4.0) -> Terms:
    """Softened logits; see `kd_loss`."""
    if not temperature > 0:
        raise RecipeError(f"distillation temperature is {temperature}: give a number above 0 (the paper uses 1 to 20)")
    taught = teacher_of(teacher)

    def value(seen: Seen) -> Tensor:
        return kd_loss(seen.logits, seen.answers[taught], temperature)

    return Terms(Term("kd", value, teacher=taught))
