"""The hooks of an objective: what training calls, and what an objective around another one passes on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import slimcnn
from slimcnn import Loss, Objective, SparseScales
from slimcnn.datasets import load_dataset
from slimcnn.distillation import Teacher, kd
from slimcnn.errors import RecipeError
from slimcnn.objectives import Terms, as_objective, cross_entropy, read_classes
from slimcnn.objectives.objective import HOOKS, PlainObjective
from slimcnn.pruning.soft import SoftPruningObjective
from slimcnn.tasks.detection import DetectorLoss

NETWORK = slimcnn.build("resnet8", in_channels=1, width=0.25)
PLAIN = {"layout": "nchw", "precision": "32", "batch_size": 32}


def soft_pruning(inner: Objective) -> Objective:
    graph = slimcnn.trace(NETWORK, torch.zeros(1, 1, 8, 8))
    plan = slimcnn.allocate(graph, slimcnn.score(NETWORK, graph, "l2"), slimcnn.Target(pruning_ratio=0.5))
    return slimcnn.SoftPruning(NETWORK, graph, plan).objective(inner)


AROUND: dict[type[Objective], Callable[[Objective], Objective]] = {
    SparseScales: SparseScales,
    SoftPruningObjective: soft_pruning,
}
"""Objectives around another one."""
WITHOUT_INNER: set[type[Objective]] = {Terms, PlainObjective, DetectorLoss}

ARGUMENTS = {
    "scores": read_classes, "model": NETWORK, "feed": lambda: iter(()), "epoch": 1.0, "indices": torch.tensor([2, 0]),
    "view": 1,
    "x": torch.zeros(2, 1, 8, 8), "labels": (torch.tensor([3, 1]), torch.tensor([1, 3])), "share": 0.75,
    "optimizer": torch.optim.SGD(NETWORK.parameters(), lr=0.1),
}  # fmt: skip


class Recording(Objective):
    """Writes down every call of a hook."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[object, ...]]] = []

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Loss:
        return cross_entropy()(model, x, y)


def recording(hook: str) -> Callable[..., Loss]:
    def record(self: Recording, *arguments: object) -> Loss:
        self.calls.append((hook, arguments))
        return Loss({"zero": torch.zeros(())}, torch.zeros(2, 10))

    return record


for name in HOOKS:
    setattr(Recording, name, recording(name))


@pytest.mark.parametrize("around", AROUND.values(), ids=[one.__name__ for one in AROUND])
@pytest.mark.parametrize("hook", HOOKS)
def test_an_objective_around_another_passes_every_hook_on(around: Callable[[Objective], Objective], hook: str) -> None:
    inner = Recording()
    names = list(inspect.signature(getattr(Objective, hook)).parameters)[1:]
    arguments = tuple(ARGUMENTS[name] for name in names)
    getattr(around(inner), hook)(*arguments)
    assert inner.calls == [(hook, arguments)]


def test_every_objective_of_the_package_is_known_to_the_test_above() -> None:
    found, queue = set(), [Objective]
    while queue:
        queue += (below := queue.pop().__subclasses__())
        found |= {one for one in below if one.__module__.startswith("slimcnn.")}
    assert found == set(AROUND) | WITHOUT_INNER


def test_a_sparsity_penalty_leaves_the_cache_of_a_teacher_on(tmp_path: Path) -> None:
    teacher = Teacher(Counting(slimcnn.build("resnet8", in_channels=1)))
    teacher.cached(tmp_path / "answers.npy", images=96, views=1)
    training = slimcnn.Training(epochs=3, views=1, **PLAIN)
    student, data = slimcnn.build("resnet8", in_channels=1, width=0.25), load_dataset("digits").limit(96)
    list(slimcnn.fit(student, data, training=training, objective=SparseScales(kd(teacher))))
    assert int(teacher.networks[0].calls) == 3  # three batches of the first epoch


class Counting(nn.Module):
    """Counts how often it runs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.network(x)


@pytest.mark.parametrize("settings", [{"views": 2}, {"augmentation": "default + mixup"}])
def test_training_calls_every_hook_that_its_settings_ask_for(settings: dict[str, float]) -> None:
    class Noting(Recording):
        def mixed(self, model: nn.Module, x: Tensor, labels: tuple[Tensor, ...], share: float) -> Loss:
            self.calls.append(("mixed", (share,)))
            return cross_entropy().mixed(model, x, labels, share)

    objective, data = Noting(), load_dataset("digits").limit(64)
    network = slimcnn.build("resnet8", in_channels=1, width=0.25)
    list(slimcnn.fit(network, data, training=slimcnn.Training(epochs=2, **settings, **PLAIN), objective=objective))
    step = ["before_step", "seeing" if "views" in settings else "mixed", "after_step"]
    assert {name for name, _ in objective.calls} == {"reading", "prepare", *step}
    assert [name for name, _ in objective.calls[:2]] == ["reading", "prepare"]
    assert [arguments for name, arguments in objective.calls if name == "before_step"] == [
        (0.0,),
        (0.5,),
        (1.0,),
        (1.5,),
    ]


def test_a_plain_function_is_an_objective_without_hooks() -> None:
    objective = as_objective(lambda model, x, y: Loss({"mean": model(x).mean()}, model(x)))
    assert isinstance(objective, Objective)
    assert as_objective(objective) is objective
    with pytest.raises(RecipeError, match="PlainObjective has no method `mixed`"):
        objective.mixed(NETWORK, torch.zeros(2, 1, 8, 8), (torch.zeros(2), torch.zeros(2)), 0.5)


def test_hooks_that_would_not_be_called_are_refused() -> None:
    class Unrelated:
        def before_step(self, epoch: float) -> None: ...

        def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Loss: ...

    with pytest.raises(RecipeError, match="Unrelated has a method `before_step` but is not an Objective"):
        as_objective(Unrelated())
