import platform

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from slimcnn.training import Training, keep_freed_memory, learning_rate
from slimcnn.training.optimizers import moving_average, swap

SCHEDULES = ["cosine", "step", "one_cycle"]


def rates(training: Training, steps: int) -> list[float]:
    return [learning_rate(training, step, steps) for step in range(steps)]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_stays_positive_and_below_its_peak(schedule, steps):
    found = rates(Training(schedule=schedule, learning_rate=0.3), steps)
    assert all(0 < rate <= 0.3 for rate in found)


@pytest.mark.parametrize("steps", [4, 10, 37])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_is_pytorchs(schedule, steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    oracle = {
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        "step": lambda: torch.optim.lr_scheduler.MultiStepLR(optimizer, [round(steps * 0.5), round(steps * 0.75)], 0.1),
        "one_cycle": lambda: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=steps),
    }[schedule]()
    expected = []
    for step in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < steps - 1:
            oracle.step()
    assert rates(Training(schedule=schedule, learning_rate=0.3), steps) == pytest.approx(expected)


def test_warm_up_rises_in_a_straight_line_to_the_peak():
    found = rates(Training(epochs=5, warmup_epochs=2, learning_rate=0.4), 10)
    assert found[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert found[5:] == sorted(found[5:], reverse=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"schedule": "cosin"},
        {"milestones": (0.7, 0.5)},
        {"milestones": (30, 60)},
        {"warmup_epochs": 10},
        {"schedule": "one_cycle", "warmup_epochs": 1},
        {"ema": 1.0},
        {"clip_norm": 0.0},
        {"label_smoothing": 1.0},
        {"seed": -1},
        {"momentum": 1.0},
        {"learning_rat": 0.1},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValidationError):
        Training(**settings)


def test_settings_survive_json_and_cannot_change():
    training = Training(optimizer="adamw", milestones=(0.3, 0.6), ema=0.99)
    assert Training.model_validate_json(training.model_dump_json()) == training
    with pytest.raises(ValidationError):
        training.epochs = 3
    assert Training(optimizer="adamw", learning_rate=0.01).learning_rate == 0.01


def test_the_moving_average_follows_whole_numbers_exactly():
    model = nn.Linear(2, 2)
    model.register_buffer("index", torch.tensor([7, 3]))
    average = moving_average(model, 0.999)
    for count in range(5):
        model.index[1] = count
        average.update_parameters(model)
        assert average.module.index.tolist() == [7, count]


def test_swapping_twice_changes_nothing():
    model = nn.BatchNorm1d(3)
    average = moving_average(model, 0.5)
    model.weight.data.fill_(3.0)
    swap(model, average)
    assert model.weight.tolist() == [1, 1, 1]
    swap(model, average)
    assert model.weight.tolist() == [3, 3, 3]


def test_freed_memory_is_kept_where_glibc_is_and_asked_for_nowhere_else(monkeypatch):
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
