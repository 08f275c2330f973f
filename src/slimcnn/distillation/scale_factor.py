"""Distillation with a scale factor of class closeness (Xu, Song 2018; our reconstruction from the abstract)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcnn.distillation.checking import same_classes
from slimcnn.distillation.teachers import Teacher, teacher_of
from slimcnn.distillation.terms import losses
from slimcnn.errors import ModelError, RecipeError
from slimcnn.objectives import Seen, Term, Terms


def scale_factor_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 4.0, delta: float = 1.0
) -> Tensor:
    """Compute T² · mean over the batch of Σ_{j≠y} w_j · Huber_δ(ρ_j^s - ρ_j^t), which compares class closeness.

    ρ_j = (z_j - z_y) / T is the logarithm of the scale factor of class j, the ratio of its softened probability to
    that of the sample's class y. w = softmax of z^t / T over j ≠ y is the closeness of class j for the teacher. The
    loss is 0 only if both logits are equal up to a constant; its gradient is at most 2 δ T per sample (L1 norm).

    Args:
        student_logits: (n, classes).
        teacher_logits: (n, classes); gets no gradient.
        labels: (n,), integers.
        temperature: T, above 0.
        delta: the error at which the Huber loss changes from quadratic to linear.

    Raises:
        ModelError: the logits have different shapes, or only one class.

    Source: Xu, Song 2018, Computer Engineering and Applications 54(12):105-109; the formula is our reconstruction.

    >>> teacher = torch.tensor([[3.0, 1.0, 0.0]])
    >>> scale_factor_loss(teacher + 5, teacher, torch.tensor([0]))
    tensor(0.)
    """
    same_classes(student_logits, teacher_logits, least=2)
    student, teacher = student_logits.float() / temperature, teacher_logits.detach().float() / temperature
    difference = factors(student, labels) - factors(teacher, labels)
    weights = closeness(teacher, labels)
    error = F.huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=delta)
    return temperature**2 * (weights * error).sum(dim=1).mean()


def factors(scores: Tensor, labels: Tensor) -> Tensor:
    """Return ρ_j = s_j - s_y, the score of each class relative to the sample's class, (n, classes)."""
    return scores - scores.gather(1, labels[:, None])


def closeness(scores: Tensor, labels: Tensor) -> Tensor:
    """Return w, the softmax over all classes except the sample's, which has weight 0; (n, classes).

    >>> closeness(torch.tensor([[9.0, 1.0, 1.0]]), torch.tensor([0]))
    tensor([[0.0000, 0.5000, 0.5000]])
    """
    own = F.one_hot(labels, scores.shape[1]).bool()
    return scores.masked_fill(own, -torch.inf).softmax(dim=1)


def class_factors(teacher_logits: Tensor, labels: Tensor, temperature: float = 4.0, bound: float = 10.0) -> Tensor:
    """Return Λ_ij = mean of clip(ρ_j) over the samples of class i, the teacher's class closeness; (classes, classes).

    Rows of classes without samples are 0.

    >>> class_factors(torch.tensor([[4.0, 0.0], [8.0, 0.0], [0.0, 4.0]]), torch.tensor([0, 0, 1]))
    tensor([[ 0.0000, -1.5000],
            [-1.0000,  0.0000]])
    """
    classes = teacher_logits.shape[1]
    found = factors(teacher_logits.detach().float() / temperature, labels).clamp(-bound, bound)
    sums = found.new_zeros(classes, classes).index_add_(0, labels, found)
    return sums / torch.bincount(labels, minlength=classes).clamp_min(1)[:, None]


def class_factor_loss(
    student_logits: Tensor, known: Tensor, labels: Tensor, temperature: float = 4.0, delta: float = 1.0
) -> Tensor:
    """Compute the same loss with the class means Λ of `class_factors` in place of the teacher's logits of the sample.

    >>> class_factor_loss(torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, -1.0], [-1.0, 0.0]]), torch.tensor([0]))
    tensor(0.)
    """
    student = student_logits.float() / temperature
    teacher = known[labels].to(student)
    difference = factors(student, labels) - teacher
    error = F.huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=delta)
    return temperature**2 * (closeness(teacher, labels) * error).sum(dim=1).mean()


def close_pairs_loss(
    student_logits: Tensor, teacher_logits: Tensor, classes: int = 8, temperature: float = 4.0, delta: float = 1.0
) -> Tensor:
    """Compute T² · mean over the batch of Σ_{i<j} q_i q_j · Huber_δ(ρ_ij^s - ρ_ij^t), over the nearest classes.

    ρ_ij = (z_i - z_j) / T is the logarithm of the scale factor between two classes, i and j run over the `classes`
    classes with the highest teacher logits, and q is the teacher's softmax of z / T over them. So all close classes are
    compared with each other, not only with the sample's class, and no labels are needed. Without the Huber bound
    (δ → ∞), the loss is T²/2 times the variance, under q, of the student's error (z^s - z^t) / T. Its gradient is at
    most δ T per sample (L1 norm).

    Args:
        student_logits: (n, classes).
        teacher_logits: (n, classes); gets no gradient.
        classes: number of nearest classes, 2 or more; with more than the network has, all of them.
        temperature: T, above 0.
        delta: the error at which the Huber loss changes from quadratic to linear.

    Raises:
        ModelError: the logits have different shapes, or only one class.

    Source: our second reading of Xu, Song 2018, whose abstract speaks of the similarity between all classes.

    >>> teacher = torch.tensor([[3.0, 1.0, 0.0]])
    >>> close_pairs_loss(teacher + 5, teacher, classes=2)
    tensor(0.)
    """
    same_classes(student_logits, teacher_logits, least=2)
    student, teacher = student_logits.float() / temperature, teacher_logits.detach().float() / temperature
    near = teacher.topk(min(classes, teacher.shape[1]), dim=1).indices
    error, q = (student - teacher).gather(1, near), teacher.gather(1, near).softmax(dim=1)
    i, j = torch.triu_indices(near.shape[1], near.shape[1], offset=1, device=near.device)
    difference = error[:, i] - error[:, j]
    found = F.huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=delta)
    return temperature**2 * (q[:, i] * q[:, j] * found).sum(dim=1).mean()


@losses.add(
    "scale_factor",
    source="Xu, Song 2018, Computer Engineering and Applications 54(12), our reconstruction",
    weight=0.5,
)
def scale_factor(
    teacher: Teacher | nn.Module,
    temperature: float = 4.0,
    delta: float = 1.0,
    warmup: float = 0.0,
    level: str = "sample",
    classes: int = 0,
) -> Terms:
    """Closeness of the other classes to the sample's class, per sample or (level=class) averaged per class.

    See `scale_factor_loss` and, for level=class, `class_factor_loss`: the teacher's logits of all training images are
    averaged before the first step. With classes=8, all pairs of the teacher's 8 nearest classes: `close_pairs_loss`.
    """
    if classes and (classes < 2 or level != "sample"):
        raise RecipeError(f"scale_factor: classes={classes} must be 2 or more, and needs level=sample")
    if level not in ("sample", "class"):
        raise RecipeError(f"level={level!r}: choose sample or class")
    taught = teacher_of(teacher)
    if level == "class":
        return _of_classes(taught, temperature, delta, warmup)

    def value(seen: Seen) -> Tensor:
        if classes:
            return close_pairs_loss(seen.logits, seen.answers[taught], classes, temperature, delta)
        return scale_factor_loss(seen.logits, seen.answers[taught], seen.y, temperature, delta)

    return Terms(Term("scale_factor", value, teacher=taught, warmup=warmup))


def _of_classes(taught: Teacher, temperature: float, delta: float, warmup: float) -> Terms:
    known: list[Tensor] = []

    def prepare(student: nn.Module, feed: Iterable[tuple[Tensor, Tensor]]) -> None:
        answers = [(taught(student, x).cpu(), y.cpu()) for x, y in feed]
        logits, labels = (torch.cat(parts) for parts in zip(*answers, strict=True))
        known[:] = [class_factors(logits, labels, temperature)]

    def value(seen: Seen) -> Tensor:
        if not known:
            raise ModelError("level=class needs the teacher's logits of all training images: train with fit")
        return class_factor_loss(seen.logits, known[0].to(seen.logits.device), seen.y, temperature, delta)

    return Terms(Term("scale_factor", value, warmup=warmup, prepare=prepare))
