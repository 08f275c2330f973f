"""Distillation with a scale factor for how close classes are (Xu, Song 2018; our reading of an abstract)."""

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
    """T² · mean over the batch of Σ_{j≠y} w_j · Huber_δ(ρ_j^s - ρ_j^t): how close each class is to the sample's own.

    ρ_j = (z_j - z_y) / T is the logarithm of the scale factor of class j, the ratio of its softened probability to that
    of the sample's class y; w = softmax over j ≠ y of z^t / T says how close the teacher finds it. It is 0 only
    where both give the same logits up to a constant, and its gradient is at most 2 δ T for every sample (L1 norm).

    Args:
        student_logits: (n, classes).
        teacher_logits: (n, classes); no gradient reaches it.
        labels: (n,), whole numbers.
        temperature: T, above 0.
        delta: where the squared error becomes a linear one.

    Raises:
        ModelError: logits of other shapes, or of one class.

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
    """ρ_j = s_j - s_y: how far every class is from the sample's own, (n, classes)."""
    return scores - scores.gather(1, labels[:, None])


def closeness(scores: Tensor, labels: Tensor) -> Tensor:
    """w: softmax over all classes but the sample's own, whose weight is 0; (n, classes).

    >>> closeness(torch.tensor([[9.0, 1.0, 1.0]]), torch.tensor([0]))
    tensor([[0.0000, 0.5000, 0.5000]])
    """
    own = F.one_hot(labels, scores.shape[1]).bool()
    return scores.masked_fill(own, -torch.inf).softmax(dim=1)


def class_factors(teacher_logits: Tensor, labels: Tensor, temperature: float = 4.0, bound: float = 10.0) -> Tensor:
    """Λ_ij = mean over the samples of class i of clip(ρ_j): how close the teacher finds classes, (classes, classes).

    Rows of classes without a sample are 0.

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
    """The same with the teacher's mean over a whole class, Λ of `class_factors`, in place of its answer to the sample.

    >>> class_factor_loss(torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, -1.0], [-1.0, 0.0]]), torch.tensor([0]))
    tensor(0.)
    """
    student = student_logits.float() / temperature
    teacher = known[labels].to(student)
    difference = factors(student, labels) - teacher
    error = F.huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=delta)
    return temperature**2 * (closeness(teacher, labels) * error).sum(dim=1).mean()


@losses.add(
    "scale_factor",
    source="Xu, Song 2018, Computer Engineering and Applications 54(12), as we read it",
    weight=0.5,
)
def scale_factor(
    teacher: Teacher | nn.Module,
    temperature: float = 4.0,
    delta: float = 1.0,
    warmup: float = 0.0,
    level: str = "sample",
) -> Terms:
    """How close classes are to the sample's own, as the teacher finds it for each sample, or (level=class) on average.

    See `scale_factor_loss` and, for "class", `class_factor_loss`: the teacher's answers to all training images are
    averaged before the first step.
    """
    if level not in ("sample", "class"):
        raise RecipeError(f"level={level!r}: choose sample or class")
    taught = teacher_of(teacher)
    if level == "class":
        return _of_classes(taught, temperature, delta, warmup)

    def value(seen: Seen) -> Tensor:
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
            raise ModelError("level=class needs the teacher's answers to all training images: train with fit")
        return class_factor_loss(seen.logits, known[0].to(seen.logits.device), seen.y, temperature, delta)

    return Terms(Term("scale_factor", value, warmup=warmup, prepare=prepare))
