"""DIST: match correlations of classes and samples, not exact logits (Huang et al. 2022, arXiv 2205.10536)."""

from __future__ import annotations

from torch import Tensor, nn

from slimcnn.distillation.checking import same_classes
from slimcnn.distillation.teachers import Teacher, teacher_of
from slimcnn.distillation.terms import losses
from slimcnn.objectives import Seen, Term, Terms


def dist_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0, beta: float = 1.0, gamma: float = 1.0
) -> Tensor:
    """T² · (β (1 - mean over samples of ρ(q_s, q_t)) + γ (1 - mean over classes of ρ(q_s, q_t))).

    ρ is Pearson's correlation, q = softmax(z / T), rows are samples and columns classes. The loss is 0 if q_s and q_t
    are equal up to scale and shift.

    Source: Huang et al. 2022, equations 7 to 10.

    >>> import torch
    >>> z = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    >>> bool(dist_loss(z, z) < 1e-3)
    True
    """
    same_classes(student_logits, teacher_logits, least=2)
    student = (student_logits.float() / temperature).softmax(dim=1)
    teacher = (teacher_logits.detach().float() / temperature).softmax(dim=1)
    between = 1 - _pearson(student, teacher).mean()
    within = 1 - _pearson(student.T, teacher.T).mean()
    return temperature**2 * (beta * between + gamma * within)


def _pearson(a: Tensor, b: Tensor, eps: float = 1e-8) -> Tensor:
    """Return Pearson's correlation of each pair of rows: (rows,)."""
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    found: Tensor = (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1) + eps)
    return found


@losses.add("dist", source="Huang et al. 2022, arXiv 2205.10536", weight=1.0)
def dist(teacher: Teacher | nn.Module, temperature: float = 4.0, beta: float = 1.0, gamma: float = 1.0) -> Terms:
    """Correlations of classes and samples; see `dist_loss`."""
    taught = teacher_of(teacher)

    def value(seen: Seen) -> Tensor:
        return dist_loss(seen.logits, seen.answers[taught], temperature, beta, gamma)

    return Terms(Term("dist", value, teacher=taught))
