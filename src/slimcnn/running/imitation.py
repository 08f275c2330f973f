"""Choose learning rate and batch norms of a network that imitates another, by a short look at a few ways."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimcnn.datasets import Dataset
from slimcnn.datasets import steps as count_steps
from slimcnn.files import read_decision, write_text
from slimcnn.objectives import Objective
from slimcnn.running.rates import trial
from slimcnn.running.step import Context
from slimcnn.training import NamedMetric, Training
from slimcnn.training.processes import from_rank_zero

WAYS = ((1.0, False), (0.2, True), (0.05, True))
"""Share of the highest learning rate, and whether batch norms keep their statistics; the strongest way first."""
PART, MOST = 10, 60
"""Steps of each look: at most this part of all, and at most so many."""
NEAR = 1.4
"""A stronger way is taken if its distance is at most so many times the smallest: it gains more in a long training. On
CIFAR-10 its distance was up to 1.3 times the smallest where it won in the end; on photographs, 1.6 times where it led
away."""
CHOICE = "imitation.json"
"""File in the folder of the step."""


class Way(BaseModel):
    """A learning rate, what batch norms do, and the distance from the reference after a few steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float
    frozen_batch_norm: bool
    distance: float | None = None
    """None: not tried, or diverged."""

    def __str__(self) -> str:
        norms = "batch norms keep their statistics" if self.frozen_batch_norm else "batch norms update"
        return f"learning rate {self.learning_rate:.2g}, {norms}"


class Imitation(BaseModel):
    """The ways that were looked at, the strongest first, and the one that was taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    way: Way
    tried: tuple[Way, ...] = ()
    steps: int = 0

    def __str__(self) -> str:
        if not self.tried:
            return str(self.way)
        distances = ", ".join("diverged" if one.distance is None else f"{one.distance:.3g}" for one in self.tried)
        return f"{self.way}: chosen of {len(self.tried)} ways after {self.steps} steps each (distances {distances})"


def imitation_for(
    student: nn.Module, data: Dataset, training: Training, objective: Objective, distance: NamedMetric, at: Context,
    rate: float | None = None, frozen_batch_norm: bool | None = None,
) -> Imitation:  # fmt: skip
    """Choose the way to train, among those with this rate and these batch norms if they are given.

    New statistics of batch norms are those of the images at hand, and a high rate needs many steps to pay. With few
    images, or images unlike those of the first training, both lead away from the reference.

    The choice is stored in the step's folder, so that a resumed step uses the same.
    """
    ways = ways_of(student, training, rate, frozen_batch_norm)
    if len(ways) == 1:
        return Imitation(way=ways[0])
    place = at.folder / CHOICE
    known = from_rank_zero(at.fabric, lambda: read_decision(place, Imitation, "look at the ways to train again"))
    if known is not None:
        return known
    whole = count_steps(data.train, training.batch_size, world=at.fabric.world_size)
    steps = max(1, min(MOST, training.epochs * whole // PART, whole))
    tried = []
    for way in ways:
        settings = at.decide(settings_for(training, way), student, data)
        found = trial(student, data, settings, steps, objective, at, f"looking at {way}", distance)
        tried.append(way.model_copy(update={"distance": found}))
    choice = Imitation(way=chosen(tried), tried=tuple(tried), steps=steps)
    from_rank_zero(at.fabric, lambda: write_text(place, choice.model_dump_json(indent=1) + "\n"))
    return choice


def ways_of(student: nn.Module, training: Training, rate: float | None, frozen: bool | None) -> list[Way]:
    """Return the ways to look at, the strongest first."""
    normed = any(isinstance(module, _BatchNorm) for module in student.modules())
    shares = WAYS if rate is None else tuple((1.0, norms) for norms in (False, True))
    ways = [
        Way(
            learning_rate=training.learning_rate * share if rate is None else rate,
            frozen_batch_norm=normed and (norms if frozen is None else frozen),
        )
        for share, norms in shares
    ]
    return list(dict.fromkeys(ways))


def cost_of_looks(student: nn.Module, training: Training, rate: float | None, frozen: bool | None) -> float:
    """Return the time of all looks, at most, as a share of the training that follows."""
    ways = ways_of(student, training, rate, frozen)
    return len(ways) / PART if len(ways) > 1 else 0.0


def settings_for(training: Training, way: Way) -> Training:
    """Return the settings with a way's learning rate and batch norms."""
    return training.model_copy(update=way.model_dump(include={"learning_rate", "frozen_batch_norm"}))


def chosen(ways: Sequence[Way]) -> Way:
    """Return the first way whose distance is near the smallest; the last one if all diverged.

    >>> looks = (1.0, False, 0.5), (0.2, True, 0.2), (0.05, True, 0.19)
    >>> ways = [Way(learning_rate=rate, frozen_batch_norm=norms, distance=found) for rate, norms, found in looks]
    >>> chosen(ways).learning_rate, chosen(ways[:1]).learning_rate
    (0.2, 1.0)
    """
    found = [way.distance for way in ways if way.distance is not None]
    limit = NEAR * min(found, default=-math.inf)
    return next((way for way in ways if way.distance is not None and way.distance <= limit), ways[-1])
