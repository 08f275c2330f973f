"""Losses between a teacher and a student: each against its definition, written out as loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from slimcnn.distillation.attention import attention_loss
from slimcnn.distillation.centered_logit_mse import centered_logit_mse_loss
from slimcnn.distillation.dist import dist_loss
from slimcnn.distillation.dkd import dkd_loss, nckd_loss, tckd_loss
from slimcnn.distillation.fitnet import fitnet_loss, regressed
from slimcnn.distillation.kd import kd_loss
from slimcnn.distillation.rkd import rkd_loss
from slimcnn.distillation.scale_factor import (
    class_factor_loss,
    class_factors,
    close_pairs_loss,
    closeness,
    scale_factor_loss,
)
from slimcnn.distillation.teachers import Teacher
from slimcnn.distillation.terms import objective_named
from slimcnn.errors import ModelError, RecipeError

T, DELTA = 4.0, 1.0


def batch(
    classes: int, n: int = 6, size: float = 6.0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(classes)
    student, teacher = size * torch.randn(2, n, classes, dtype=dtype)
    return student, teacher, torch.randint(classes, (n,))


def softmax(scores: list[float]) -> list[float]:
    highest = max(scores)
    powers = [math.exp(score - highest) for score in scores]
    return [power / sum(powers) for power in powers]


def huber(e: float) -> float:
    return 0.5 * e * e if abs(e) <= DELTA else DELTA * (abs(e) - DELTA / 2)


def scale_factor_by_loops(student: Tensor, teacher: Tensor, labels: Tensor) -> float:
    total = 0.0
    for s, t, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        others = [j for j in range(len(s)) if j != y]
        weights = softmax([t[j] / T for j in others])
        for j, w in zip(others, weights, strict=True):
            total += w * huber((s[j] - s[y]) / T - (t[j] - t[y]) / T)
    return T * T * total / len(labels)


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_the_scale_factor_is_its_double_loop(classes: int) -> None:
    student, teacher, labels = batch(classes)
    expected = scale_factor_by_loops(student, teacher, labels)
    assert scale_factor_loss(student, teacher, labels).item() == pytest.approx(expected, rel=1e-5)


def test_with_two_classes_it_is_the_huber_of_one_difference() -> None:
    student, teacher, labels = batch(2)
    gaps = [(logits[:, 1] - logits[:, 0]) / T for logits in (student, teacher)]
    expected = T * T * sum(huber(float(gap)) for gap in gaps[0] - gaps[1]) / len(labels)
    assert scale_factor_loss(student, teacher, labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
def test_its_gradient_sums_to_zero_for_every_sample_and_is_bounded(classes: int) -> None:
    student, teacher, labels = batch(classes, n=32)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(scale_factor_loss(student, teacher, labels) * len(labels), student)
    assert gradient.sum(dim=1).abs().max() < 1e-5
    assert gradient.abs().sum(dim=1).max() <= 2 * DELTA * T + 1e-5
    assert gradient.abs().sum(dim=1).max() > 0.5


def test_its_gradient_is_that_of_finite_differences() -> None:
    student, teacher, labels = batch(5, size=1.0)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(scale_factor_loss(student, teacher, labels), student)
    step = 1e-4
    for place in ((0, 0), (1, 3), (4, 2)):
        changed = student.detach().clone()
        changed[place] += step
        higher = scale_factor_by_loops(changed, teacher, labels)
        changed[place] -= 2 * step
        slope = (higher - scale_factor_by_loops(changed, teacher, labels)) / (2 * step)
        assert gradient[place].item() == pytest.approx(slope, abs=1e-4)


def test_it_is_finite_at_huge_logits_and_in_half_precision() -> None:
    student, teacher, labels = batch(10, size=1e4)
    assert torch.isfinite(scale_factor_loss(student, teacher, labels))
    half = [tensor.clamp(-6e4, 6e4).half() for tensor in (student, teacher)]
    assert torch.isfinite(scale_factor_loss(*half, labels))
    assert scale_factor_loss(*half, labels).dtype == torch.float32


def test_it_is_zero_only_where_logits_agree_up_to_a_constant() -> None:
    _, teacher, labels = batch(7)
    shift = torch.randn(len(labels), 1, dtype=torch.float64)
    assert scale_factor_loss(teacher + shift, teacher, labels) < 1e-10
    other = teacher.clone()
    other[:, 0] += 0.1
    assert scale_factor_loss(other, teacher, labels) > 1e-6


def test_it_does_not_care_how_classes_are_numbered() -> None:
    student, teacher, labels = batch(8)
    order = torch.randperm(8)
    renamed = order.argsort()[labels]
    found = scale_factor_loss(student[:, order], teacher[:, order], renamed)
    torch.testing.assert_close(found, scale_factor_loss(student, teacher, labels))


def test_a_teacher_that_is_wrong_still_gives_weights_that_sum_to_one() -> None:
    scores = torch.tensor([[0.0, 50.0, 0.0]])
    weights = closeness(scores, torch.tensor([0]))
    assert weights.sum() == pytest.approx(1)
    assert weights[0, 0] == 0
    assert weights[0, 1] == pytest.approx(1)


def test_three_classes_learn_the_teacher_from_the_scale_factor_alone() -> None:
    teacher = torch.tensor([[3.0, 1.0, -1.0], [0.0, 2.0, 1.0]])
    labels = torch.tensor([0, 1])
    student = torch.zeros(2, 3, requires_grad=True)
    optimizer = torch.optim.SGD([student], 0.5)
    for _ in range(2000):
        optimizer.zero_grad()
        scale_factor_loss(student, teacher, labels).backward()
        optimizer.step()
    assert kd_loss(student, teacher, T) < 1e-6


def test_factors_of_classes_are_means_over_their_samples() -> None:
    _, teacher, labels = batch(4, n=40)
    found = class_factors(teacher, labels, T)
    for i in range(4):
        rows = [t for t, y in zip(teacher.tolist(), labels.tolist(), strict=True) if y == i]
        for j in range(4):
            expected = sum(max(-10, min(10, (t[j] - t[i]) / T)) for t in rows) / len(rows)
            assert found[i, j].item() == pytest.approx(expected, abs=1e-5)
    student = found[labels] * T
    assert class_factor_loss(student, found, labels, T) < 1e-8
    assert class_factor_loss(student + teacher, found, labels, T) > 0.1


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_dkd_is_its_definition(classes: int) -> None:
    student, teacher, labels = batch(classes)
    target = others = 0.0
    for s, t, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        q_s, q_t = softmax([z / T for z in s]), softmax([z / T for z in t])
        for a, b in ((q_t[y], q_s[y]), (1 - q_t[y], 1 - q_s[y])):
            target += a * math.log(a / b)
        rest = [j for j in range(classes) if j != y]
        for a, b in zip(softmax([t[j] / T for j in rest]), softmax([s[j] / T for j in rest]), strict=True):
            others += a * math.log(a / b)
    target, others = (T * T * value / len(labels) for value in (target, others))
    assert tckd_loss(student, teacher, labels).item() == pytest.approx(target, rel=1e-4)
    assert nckd_loss(student, teacher, labels).item() == pytest.approx(others, rel=1e-4, abs=1e-9)
    assert dkd_loss(student, teacher, labels, beta=2).item() == pytest.approx(target + 2 * others, rel=1e-4)


def test_kd_is_target_and_weighted_other_classes() -> None:
    """KL = TCKD + (1 - q_y) NCKD: the identity that DKD begins from."""
    student, teacher, labels = batch(10, n=1)
    q = (teacher / T).softmax(dim=1)[0, labels[0]]
    expected = tckd_loss(student, teacher, labels) + (1 - q) * nckd_loss(student, teacher, labels)
    torch.testing.assert_close(kd_loss(student, teacher, T).double(), expected.double(), rtol=1e-4, atol=1e-6)


def test_dist_is_one_minus_correlations() -> None:
    student, teacher, _ = batch(6)
    a, b = (student / T).softmax(1).float(), (teacher / T).softmax(1).float()
    rows = torch.stack([torch.corrcoef(torch.stack([x, y]))[0, 1] for x, y in zip(a, b, strict=True)])
    columns = torch.stack([torch.corrcoef(torch.stack([x, y]))[0, 1] for x, y in zip(a.T, b.T, strict=True)])
    expected = T * T * ((1 - rows.mean()) + (1 - columns.mean()))
    assert dist_loss(student, teacher, T).item() == pytest.approx(float(expected), rel=1e-3)


def test_centered_logits_forget_a_constant() -> None:
    student, teacher, _ = batch(5)
    expected = (
        sum(
            ((s - sum(row_s) / 5) - (t - sum(row_t) / 5)) ** 2
            for row_s, row_t in zip(student.tolist(), teacher.tolist(), strict=True)
            for s, t in zip(row_s, row_t, strict=True)
        )
        / student.numel()
    )
    assert centered_logit_mse_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert centered_logit_mse_loss(teacher + 100, teacher) < 1e-6


def test_relations_of_samples_are_their_loops() -> None:
    student, teacher, _ = batch(4, n=5)

    def distances(x: Tensor) -> Tensor:
        found = torch.tensor([[math.dist(a, b) for b in x.tolist()] for a in x.tolist()])
        return found / found[found > 0].mean()

    def angles(x: Tensor) -> Tensor:
        rays = [[torch.nn.functional.normalize(k - i, dim=0) for k in x] for i in x]
        return torch.tensor([[[float(a @ b) for b in row] for a in row] for row in rays])

    smooth = torch.nn.functional.smooth_l1_loss
    expected = 25 * smooth(distances(student), distances(teacher)) + 50 * smooth(angles(student), angles(teacher))
    assert rkd_loss(student, teacher).item() == pytest.approx(float(expected), rel=1e-3)


def test_attention_forgets_widths_and_loudness_and_features_meet_at_the_smaller_size() -> None:
    x = torch.rand(3, 4, 8, 8)
    assert attention_loss(x, 7 * x[:, [0, 0, 1, 1, 2, 2, 3, 3]]) < 1e-12
    assert attention_loss(x, torch.rand(3, 2, 4, 4)) > 1e-5
    smaller = torch.nn.functional.avg_pool2d(x, 2)
    assert fitnet_loss(x, smaller) < 1e-12
    assert fitnet_loss(x, smaller + 2).item() == pytest.approx(4, rel=1e-5)


LOSSES = {
    "kd": lambda s, t, y: kd_loss(s, t, T), "scale_factor": scale_factor_loss, "tckd": tckd_loss, "nckd": nckd_loss,
    "dkd": dkd_loss, "dist": lambda s, t, y: dist_loss(s, t), "centered": lambda s, t, y: centered_logit_mse_loss(s, t),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_no_gradient_reaches_the_teacher_and_equal_logits_cost_nothing(name: str) -> None:
    student, teacher, labels = (tensor.clone() for tensor in batch(5, dtype=torch.float32))
    student.requires_grad_()
    teacher.requires_grad_()
    LOSSES[name](student, teacher, labels).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert LOSSES[name](teacher, teacher, labels).detach().abs() < 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_other_classes_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="must have the same classes"):
        LOSSES[name](torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))


def test_hints_of_another_width_are_regressed_as_numpy_does() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 5, 4, 4, requires_grad=True), torch.randn(3, 8, 4, 4)
    rows = np.column_stack([student.detach().movedim(1, -1).reshape(-1, 5), np.ones(48)])
    wanted = teacher.movedim(1, -1).reshape(-1, 8).numpy()
    solution, *_ = np.linalg.lstsq(rows, wanted, rcond=None)
    best = float(((rows @ solution - wanted) ** 2).mean())
    assert fitnet_loss(student, teacher).item() == pytest.approx(best, rel=1e-4)
    mixed = torch.einsum("oc,nchw->nohw", torch.randn(8, 5), student.detach())
    assert fitnet_loss(student, mixed).item() < 1e-5  # what a 1x1 convolution can make is no error
    assert regressed(student, teacher).shape == teacher.shape


def test_the_gradient_of_regressed_hints_is_that_of_their_minimum() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 6, 4, 4)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(fitnet_loss(student, teacher), student)
    step = 1e-2 * torch.randn_like(student)
    with torch.no_grad():
        there, back = (fitnet_loss(student + sign * step, teacher) for sign in (1, -1))
    assert float((there - back) / 2) == pytest.approx(float((gradient * step).sum()), rel=0.02, abs=1e-5)


# --- all pairs of close classes ---------------------------------------------------------------------------------------


def test_close_pairs_are_those_of_a_loop_over_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 7, generator=generator) * 4 for _ in range(2))
    temperature, delta, count = 2.0, 0.7, 4
    total = 0.0
    for s, t in zip(student / temperature, teacher / temperature, strict=True):
        near = t.argsort(descending=True)[:count].tolist()
        q = torch.softmax(t[near], 0)
        for a in range(count):
            for b in range(a + 1, count):
                error = abs(float((s[near[a]] - s[near[b]]) - (t[near[a]] - t[near[b]])))
                huber = error**2 / 2 if error <= delta else delta * (error - delta / 2)
                total += float(q[a] * q[b]) * huber
    found = close_pairs_loss(student, teacher, count, temperature, delta)
    assert float(found) == pytest.approx(temperature**2 * total / 5, rel=1e-5)


def test_over_all_pairs_and_without_a_bound_it_is_the_variance_of_the_students_error() -> None:
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(6, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    q, error = (teacher / 3).softmax(1), (student - teacher) / 3
    variance = (q * error**2).sum(1) - (q * error).sum(1) ** 2
    found = close_pairs_loss(student, teacher, classes=100, temperature=3.0, delta=1e6)
    assert float(found) == pytest.approx(float(4.5 * variance.mean()), rel=1e-5)


def test_the_gradient_of_close_pairs_is_bounded() -> None:
    generator = torch.Generator().manual_seed(2)
    student = (torch.randn(8, 20, generator=generator) * 50).requires_grad_(True)
    close_pairs_loss(student, torch.randn(8, 20, generator=generator) * 50, 8, 4.0, 0.5).backward()
    assert student.grad is not None
    assert float(student.grad.abs().sum(1).max()) <= 0.5 * 4.0 / 8 + 1e-6  # the mean over 8 samples


@pytest.mark.parametrize("spec", ["scale_factor:classes=1", "scale_factor:classes=8,level=class"])
def test_pairs_that_make_no_sense_are_refused(spec: str) -> None:
    with pytest.raises(RecipeError, match="must be 2 or more, and needs level=sample"):
        objective_named(spec, Teacher(torch.nn.Flatten()))
