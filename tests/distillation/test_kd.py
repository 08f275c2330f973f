import math

import pytest
import torch
from torch import nn

from slimcnn.distillation import Teacher, kd, kd_loss, objective_named
from slimcnn.errors import ModelError, RecipeError
from slimcnn.objectives import cross_entropy


def by_hand(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    """The definition, one number at a time."""

    def softmax(row: list[float]) -> list[float]:
        powers = [math.exp(value / temperature) for value in row]
        return [power / sum(powers) for power in powers]

    total = 0.0
    for s_row, t_row in zip(student.tolist(), teacher.tolist(), strict=True):
        for s, t in zip(softmax(s_row), softmax(t_row), strict=True):
            total += t * math.log(t / s)
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_it_is_its_formula(temperature):
    student, teacher = torch.randn(7, 5) * 3, torch.randn(7, 5) * 3
    assert kd_loss(student, teacher, temperature).item() == pytest.approx(
        by_hand(student, teacher, temperature), rel=1e-5
    )


def test_equal_answers_cost_nothing_and_any_other_answer_costs_something():
    logits = torch.randn(6, 10)
    assert kd_loss(logits, logits, 4.0).item() == 0
    assert kd_loss(logits + 3.0, logits, 4.0).item() == pytest.approx(0, abs=1e-5)  # softmax ignores a shift
    for _ in range(20):
        assert kd_loss(torch.randn(6, 10), logits, 4.0).item() > 0


def test_the_gradient_is_that_of_the_paper_and_keeps_its_size_at_any_temperature():
    """dL/dz = T (softmax(z / T) - softmax(v / T)) / n; about (z - v) / classes / n for large T and centered logits."""
    student, teacher = torch.randn(4, 10, requires_grad=True), torch.randn(4, 10)
    with torch.no_grad():
        student -= student.mean(1, keepdim=True)
        teacher -= teacher.mean(1, keepdim=True)
    for temperature in (1.0, 8.0, 1000.0):
        student.grad = None
        kd_loss(student, teacher, temperature).backward()
        exact = (student.detach() / temperature).softmax(1) - (teacher / temperature).softmax(1)
        torch.testing.assert_close(student.grad, temperature * exact / 4, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(student.grad, (student.detach() - teacher) / 10 / 4, rtol=0.02, atol=1e-4)


def test_no_gradient_reaches_the_teacher():
    student, teacher = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    kd_loss(student, teacher, 4.0).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_half_precision_logits_are_compared_in_float32():
    student, teacher = torch.randn(8, 10), torch.randn(8, 10)
    low = kd_loss(student.bfloat16(), teacher.bfloat16(), 4.0)
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(by_hand(student.bfloat16(), teacher.bfloat16(), 4.0), rel=1e-5)


def networks() -> tuple[nn.Module, nn.Module, torch.Tensor, torch.Tensor]:
    student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))
    teacher = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), nn.Flatten(), nn.Linear(32, 5))
    return student, teacher, torch.randn(6, 3, 4, 4), torch.randint(5, (6,))


def test_the_terms_are_the_weighted_losses():
    student, teacher, x, y = networks()
    loss = objective_named("0.3*cross_entropy+0.7*kd:temperature=3.0", Teacher(teacher))(student, x, y)
    teacher.eval()
    hard = nn.functional.cross_entropy(student(x), y).item()
    soft = by_hand(student(x), teacher(x), 3.0)
    assert loss.terms["cross_entropy"].item() == pytest.approx(0.3 * hard)
    assert loss.terms["kd"].item() == pytest.approx(0.7 * soft, rel=1e-5)
    assert loss.total.item() == pytest.approx(0.3 * hard + 0.7 * soft, rel=1e-5)
    assert torch.equal(loss.logits, student(x))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_alpha_zero_is_cross_entropy_bit_for_bit(smoothing):
    student, teacher, x, y = networks()
    gradients = []
    for objective in (cross_entropy(smoothing), objective_named("1*cross_entropy+0*kd", Teacher(teacher), smoothing)):
        student.zero_grad()
        loss = objective(student, x, y).total
        loss.backward()
        gradients.append([loss.detach(), *(p.grad.clone() for p in student.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_the_teacher_is_a_copy_that_never_changes():
    student, teacher, x, y = networks()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    objective = 1.0 * kd(teacher)
    first = objective(student, x, y).terms["kd"].item()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(2)
    loss = objective(student, x, y)
    loss.total.backward()
    assert loss.terms["kd"].item() == first  # no dropout, no batch statistics, not the caller's later changes
    assert teacher.training
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    buffers = dict(teacher.named_buffers())
    assert all(torch.equal(before[name], buffer) for name, buffer in buffers.items())


def test_the_copy_takes_the_students_memory_format():
    student, teacher, x, y = networks()
    student.to(memory_format=torch.channels_last)
    seen = []
    teacher[0].register_forward_pre_hook(lambda module, _: seen.append(module.weight))
    kd(teacher)(student, x.contiguous(memory_format=torch.channels_last), y)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert teacher[0].weight.is_contiguous()


def test_what_makes_no_sense_is_refused():
    student, teacher, x, y = networks()
    with pytest.raises(RecipeError, match="temperature is 0"):
        kd(teacher, temperature=0)
    with pytest.raises(RecipeError, match=r"the weight of a loss term is -0\.5"):
        objective_named("-0.5*cross_entropy+1.5*kd", Teacher(teacher))
    with pytest.raises(RecipeError, match="label_smoothing=1"):
        objective_named("kd", Teacher(teacher), label_smoothing=1.0)
    teacher[4] = nn.Linear(32, 7)
    with pytest.raises(ModelError, match=r"shapes \(6, 5\) and \(6, 7\)"):
        kd(teacher)(student, x, y)
