"""Distillation from softened answers (Hinton, Vinyals, Dean 2015, "Distilling the knowledge in a neural network")."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcnn.errors import ModelError, RecipeError
from slimcnn.objectives import Loss, Objective, class_scores, cross_entropy


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T² · KL(q_t ‖ q_s), mean over the batch, with q = softmax(logits / T).

    Both logits are `(n, classes)`; computed in float32, and no gradient reaches the teacher.  T² keeps the gradient's
    size independent of T (section 2 of the paper).

    >>> kd_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 3.0]]), temperature=4.0)   # same softmax
    tensor(0.)
    """
    if student_logits.shape != teacher_logits.shape:
        found = f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        raise ModelError(f"student and teacher give logits of shapes {found}: they must have the same classes")
    student = F.log_softmax(student_logits.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.detach().float() / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def hinton(
    teacher: nn.Module, temperature: float = 4.0, alpha: float = 0.9, *, label_smoothing: float = 0.0
) -> Objective:
    """(1 - alpha) · cross entropy + alpha · `kd_loss`: the student learns from labels and from the teacher.

    `temperature` is above 0, `alpha` within [0, 1].  The teacher is copied here, in eval mode; the caller's module is
    never touched.  The copy follows the student to its device and memory format at the first batch.

    >>> student, teacher = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    >>> loss = hinton(teacher)(student, torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))
    >>> sorted(loss.terms)
    ['cross_entropy', 'kd']
    """
    if not temperature > 0:
        raise RecipeError(f"distillation temperature is {temperature}: give a number above 0 (the paper uses 1 to 20)")
    if not 0 <= alpha <= 1:
        raise RecipeError(f"distillation alpha is {alpha}: give the teacher's share of the loss, from 0 to 1")
    hard_loss = cross_entropy(label_smoothing)
    teacher = deepcopy(teacher).eval().requires_grad_(False)
    placed_on: torch.device | None = None

    def objective(model: nn.Module, x: Tensor, y: Tensor) -> Loss:
        nonlocal placed_on
        if placed_on != x.device:
            teacher.to(x.device, memory_format=_memory_format(model))  # type: ignore[call-overload]
            placed_on = x.device
        hard = hard_loss(model, x, y)
        with torch.no_grad():
            answer = class_scores(teacher(x), len(x))
        terms = {name: (1 - alpha) * term for name, term in hard.terms.items()}
        return Loss(terms | {"kd": alpha * kd_loss(hard.logits, answer, temperature)}, hard.logits)

    return objective


def _memory_format(model: nn.Module) -> torch.memory_format:
    # Seen on the filters, not the images: an image with one channel is both formats at once.
    for weight in model.parameters():
        if weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous():
            return torch.channels_last
    return torch.contiguous_format
