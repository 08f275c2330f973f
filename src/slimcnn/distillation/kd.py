"""Softened answers (Hinton, Vinyals, Dean 2015, "Distilling the knowledge in a neural network", arXiv 1503.02531)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from slimcnn.distillation.checking import same_classes
from slimcnn.distillation.teachers import Teacher, teacher_of
from slimcnn.distillation.terms import losses
from slimcnn.errors import RecipeError
from slimcnn.objectives import Seen, Term, Terms, cross_entropy


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T² · KL(q_t ‖ q_s), mean over the batch, with q = softmax(logits / T).

    Both logits are `(n, classes)`; computed in float32, and no gradient reaches the teacher.  T² keeps the gradient's
    size independent of T (section 2 of the paper).

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
    """Softened answers; see `kd_loss`."""
    if not temperature > 0:
        raise RecipeError(f"distillation temperature is {temperature}: give a number above 0 (the paper uses 1 to 20)")
    taught = teacher_of(teacher)

    def value(seen: Seen) -> Tensor:
        return kd_loss(seen.logits, seen.answers[taught], temperature)

    return Terms(Term("kd", value, teacher=taught))


def hinton(
    teacher: Teacher | nn.Module, temperature: float = 4.0, alpha: float = 0.9, *, label_smoothing: float = 0.0
) -> Terms:
    """(1 - alpha) · cross entropy + alpha · `kd_loss`: the student learns from labels and from the teacher.

    `temperature` is above 0, `alpha` within [0, 1].  The teacher is copied here, in eval mode; the caller's module is
    never touched.  The copy follows the student to its device and memory format at the first batch.

    >>> import torch
    >>> student, teacher = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    >>> loss = hinton(teacher)(student, torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))
    >>> sorted(loss.terms)
    ['cross_entropy', 'kd']
    """
    if not 0 <= alpha <= 1:
        raise RecipeError(f"distillation alpha is {alpha}: give the teacher's share of the loss, from 0 to 1")
    return (1 - alpha) * cross_entropy(label_smoothing) + alpha * kd(teacher, temperature)
