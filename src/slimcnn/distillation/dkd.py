"""Decoupled knowledge distillation: separate target and non-target terms (Zhao et al. 2022, arXiv 2203.08679)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcnn.distillation.checking import same_classes
from slimcnn.distillation.teachers import Teacher, teacher_of
from slimcnn.distillation.terms import losses
from slimcnn.objectives import Seen, Term, Terms


def tckd_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 4.0) -> Tensor:
    """Compute T² · KL(b_t ‖ b_s), where b = (q_y, 1 - q_y) are the softened probabilities of target and other classes.

    Source: Zhao et al. 2022, equation 7.

    >>> import torch
    >>> z = torch.tensor([[2.0, 1.0, 0.0]])
    >>> round(tckd_loss(z, z, torch.tensor([0])).item(), 6)
    0.0
    """
    same_classes(student_logits, teacher_logits, least=2)
    student, teacher = (
        _binary(logits.float() / temperature, labels) for logits in (student_logits, teacher_logits.detach())
    )
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def nckd_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 4.0) -> Tensor:
    """Compute T² · KL(q̂_t ‖ q̂_s), where q̂ = softmax(z / T) over all classes except the target.

    With two classes there is only one non-target class, so the loss is 0.

    Source: Zhao et al. 2022, equation 7.

    >>> import torch
    >>> nckd_loss(torch.tensor([[5.0, 1.0]]), torch.tensor([[1.0, 5.0]]), torch.tensor([0]))
    tensor(0.)
    """
    same_classes(student_logits, teacher_logits, least=2)
    student, teacher = (
        F.log_softmax(_others(logits.float() / temperature, labels), dim=1)
        for logits in (student_logits, teacher_logits.detach())
    )
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def dkd_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 4.0, alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:  # fmt: skip
    """Compute α · `tckd_loss` + β · `nckd_loss`.

    The paper uses β = 2 for ResNet-56 → 20, β = 8 for ResNet-32x4 → 8x4 (table 11).

    >>> import torch
    >>> z, t, y = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    >>> bool(torch.isclose(dkd_loss(z, t, y, beta=2), tckd_loss(z, t, y) + 2 * nckd_loss(z, t, y)))
    True
    """
    own = tckd_loss(student_logits, teacher_logits, labels, temperature)
    return alpha * own + beta * nckd_loss(student_logits, teacher_logits, labels, temperature)


def _others(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the scores of all classes except the target: (n, classes - 1)."""
    others = ~F.one_hot(labels, scores.shape[1]).bool()
    return scores[others].view(len(scores), -1)


def _binary(scores: Tensor, labels: Tensor) -> Tensor:
    """Return (log q_y, log(1 - q_y)), (n, 2)."""
    whole = scores.logsumexp(dim=1)
    own = scores.gather(1, labels[:, None])[:, 0]
    return torch.stack([own - whole, _others(scores, labels).logsumexp(dim=1) - whole], dim=1)


@losses.add("dkd", source="Zhao et al. 2022, arXiv 2203.08679", weight=1.0)
def dkd(
    teacher: Teacher | nn.Module, temperature: float = 4.0, alpha: float = 1.0, beta: float = 2.0, warmup: float = 0.0
) -> Terms:
    """Decoupled terms for target and non-target classes; see `dkd_loss`."""
    taught = teacher_of(teacher)

    def value(seen: Seen) -> Tensor:
        return dkd_loss(seen.logits, seen.answers[taught], seen.y, temperature, alpha, beta)

    return Terms(Term("dkd", value, teacher=taught, warmup=warmup))


@losses.add("nckd", source="Zhao et al. 2022, arXiv 2203.08679", weight=1.0)
def nckd(teacher: Teacher | nn.Module, temperature: float = 4.0, warmup: float = 0.0) -> Terms:
    """Non-target classes only; see `nckd_loss`."""
    taught = teacher_of(teacher)

    def value(seen: Seen) -> Tensor:
        return nckd_loss(seen.logits, seen.answers[taught], seen.y, temperature)

    return Terms(Term("nckd", value, teacher=taught, warmup=warmup))
