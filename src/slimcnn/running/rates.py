"""Choose the learning rate for a network that is trained already: too high a rate destroys what it has learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from torch import nn

from slimcnn.datasets import Dataset
from slimcnn.datasets import steps as count_steps
from slimcnn.errors import TrainingDiverged
from slimcnn.files import read_decision, write_text
from slimcnn.graph.copying import duplicate
from slimcnn.objectives import Objective
from slimcnn.running.step import Context
from slimcnn.tasks import Metric, task_of
from slimcnn.training import Training, fit
from slimcnn.training.judging import MetricFunction
from slimcnn.training.keeping import TOP1
from slimcnn.training.processes import from_rank_zero

SHARES = (0.1, 0.3, 1.0)
"""Rates to try, as shares of the default."""

MOST = 200
"""Maximum number of steps with each rate."""

CHOICE = "learning_rate.json"
"""File in the folder of the step."""


class RateTrial(BaseModel):
    """A short training with one learning rate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float
    metric: float | None = Field(validation_alias=AliasChoices("metric", "top1"))
    """The metric on the validation images, in its unit; None if the training diverged."""


class RateChoice(BaseModel):
    """The learning rate of a step, and the trials that it was chosen from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float
    steps: int = 0
    """Steps of each trial."""
    trials: tuple[RateTrial, ...] = ()
    metric: str = "top-1"
    unit: str = "%"

    def __str__(self) -> str:
        if not self.trials:
            return f"learning rate {self.rate:g}"
        tried = ", ".join(
            f"{one.rate:g}: {'diverged' if one.metric is None else Metric(self.metric, self.unit).written(one.metric)}"
            for one in self.trials
        )
        steps = f"{self.steps} step{'s' * (self.steps != 1)}"
        return f"learning rate {self.rate:g}, chosen by validation {self.metric} after {steps} each ({tried})"


def rate_for(
    model: nn.Module, data: Dataset, training: Training, at: Context,
    objective: Callable[[Training], Objective | None] = lambda _: None,
) -> RateChoice:  # fmt: skip
    """Choose the learning rate of a network with trained weights: `training.learning_rate`, or 0.3 or 0.1 of it.

    `objective` makes the training objective for the settings with each rate.

    Each rate trains a copy of the network for a few steps. The largest rate wins whose validation top-1 is at most one
    standard error below the best: a short trial favors small rates, which need more epochs. All trials together take
    at most one epoch; if the training is shorter than two such looks, it uses `training.learning_rate`.

    The choice is stored in the step's folder, so that a resumed step uses the same.

    Raises:
        RunError: the stored choice is damaged.
    """
    place = at.folder / CHOICE
    known = from_rank_zero(at.fabric, lambda: read_decision(place, RateChoice, "try the learning rates again"))
    if known is not None:
        return known
    whole = count_steps(data.train, training.batch_size, world=at.fabric.world_size)
    each = min(MOST, whole // len(SHARES))
    if not each or training.epochs * whole < 2 * each * len(SHARES):
        return RateChoice(rate=training.learning_rate)
    training = at.decide(training, model, data)
    trials = []
    for rate in (share * training.learning_rate for share in SHARES):
        tried = training.model_copy(update={"learning_rate": rate})
        score = trial(model, data, tried, each, objective(tried), at, f"trying learning rate {rate:g}")
        trials.append(RateTrial(rate=rate, metric=score))
    metric = task_of(data).metric
    best = chosen(trials, len(data.validation), metric)
    found = RateChoice(rate=best, steps=each, trials=tuple(trials), metric=metric.name, unit=metric.unit)
    from_rank_zero(at.fabric, lambda: write_text(place, found.model_dump_json(indent=1) + "\n"))
    at.show.say(f"  {found}")
    return found


def chosen(trials: Sequence[RateTrial], images: int, metric: Metric = TOP1) -> float:
    """Return the largest rate within one standard error of the best top-1 on so many images.

    >>> trials = [RateTrial(rate=rate, metric=value) for rate, value in ((0.001, 91.0), (0.003, 90.8), (0.01, 80.0))]
    >>> chosen(trials, 5000), chosen(trials, 5)
    (0.003, 0.01)
    """
    scored = [(one.rate, one.metric) for one in trials if one.metric is not None]
    if not scored:
        return min(one.rate for one in trials)
    best = (max if metric.higher_is_better else min)(value for _, value in scored)
    error = math.sqrt(best * (100 - best) / images) if metric.unit == "%" else 0.0
    return max(rate for rate, value in scored if metric.gain(best, value) >= -error)


def trial(
    model: nn.Module, data: Dataset, training: Training, steps: int, objective: Objective | None, at: Context,
    title: str, validation: MetricFunction | None = None,
) -> float | None:  # fmt: skip
    """Train a copy of a network for so many steps; return its validation score, or None if the training diverged."""
    few = replace(data, train=data.train.limit(steps * training.batch_size))
    short = {"epochs": 1, "warmup_epochs": 0.0, "schedule": "cosine", "keep": "last"}
    short |= {"ema": None, "compile": False, "views": None, "frozen_epochs": 0}
    short["accumulate"] = min(training.accumulate, steps)
    devices = [at.fabric.device] if at.fabric.device.type == "cuda" else []
    # What an objective draws here must not change what it draws in the training: a resumed step has no trials.
    with torch.random.fork_rng(devices):
        try:
            (epoch,) = fit(
                duplicate(model), few, training=training.model_copy(update=short), objective=objective,
                validation=validation, fabric=at.fabric, progress=at.show.counting(title),
            )  # fmt: skip
        except TrainingDiverged:
            return None
    return epoch.validation_metric
