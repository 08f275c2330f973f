"""Sparsity training before a cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from torch import nn

from slimcnn.graph.copying import duplicate
from slimcnn.layers.relating import anneal, relating_of, settle
from slimcnn.objectives import SparseScales, spread
from slimcnn.reporting.sections import Section, Text
from slimcnn.rewriting import fold_relations, insert_relations
from slimcnn.running.epochs import about_training, count, learn, training_of
from slimcnn.running.rates import RateChoice, rate_for
from slimcnn.running.step import Context, Facts, State, Step, steps
from slimcnn.training import Epoch, Training
from slimcnn.training.schedule import learning_rate
from slimcnn.training.settings import LEARNING_RATES

SHRINKAGE = 2.0
"""Total shrinkage of a scale that the loss does not need (with relations, a scale starts at 1.14)."""

LARGEST_STEP = 0.01
"""Maximum shrinkage of such a scale in one step."""

RATE = 0.1
"""Learning rate of SGD: the highest, for a trained network."""


@steps.add("sparsify", source="Liu et al. 2017, arXiv 1708.06519; CN112308213A for relations")
class Sparsify(Step, Training):
    """Train with a penalty on batch-norm scales, with or without channel relations, so that more channels can go."""

    costs = True
    refuses: ClassVar = {
        "relations": "the network has channel relations already: leave this step out, or train longer in the first one"
    }
    loses = frozenset({"origin", "cut", "constants", "refitted"})
    trains = True

    relations: Literal["mean", "sample", "annealed", "none"] = "mean"
    """mean: folded into the batch norms by the next prune; sample: gates that remain; annealed: from sample to mean
    between a quarter and three quarters of the training; none: network slimming."""
    equal_gates: bool = True
    """All gates begin with the same value; false: with random weights, so that they differ from the start."""
    penalty: Literal["l1", "product", "relative"] = "l1"
    """l1: |gamma|; product: |gamma| sr; relative: |gamma| sr, divided by the layer's mean of sr."""
    polarization: float = Field(default=0.0, ge=0)
    """Weight of 4 e (1 - e), the mean over all gates e, which drives them toward 0 or 1."""
    strength: float | None = Field(default=None, gt=0)
    """lambda; default: the value by which a scale that the loss does not need shrinks by 2 over the whole training
    (see `strength_for`). Liu et al. use 1e-4 for VGG over 160 epochs and 1e-5 for deep ResNets."""
    update: Literal["proximal", "subgradient"] = "proximal"
    """How the penalty is minimized."""
    keep: Literal["last"] = "last"
    """Always the last epoch: the penalty makes scales small over the whole training, and the epoch with the highest
    top-1 is often the one with the largest scales."""
    epochs: int = Field(default=40, ge=1)
    """Passes over the training images."""
    learning_rate: float | None = None  # type: ignore[assignment]
    """Peak learning rate; default 0.1 from scratch (adamw: 0.001). For a trained network, 0.1 (adamw: 0.001), 0.3 or
    0.1 of it: the largest that does not worsen the validation metric in a short look."""

    @model_validator(mode="after")
    def _consistent(self) -> Sparsify:
        if self.relations == "none" and (self.penalty != "l1" or self.polarization or not self.equal_gates):
            raise ValueError(
                "relations is none: leave penalty, polarization and equal_gates out, or choose mean, sample or annealed"
            )
        return self

    def after(self, facts: Facts) -> Facts:
        """Return the facts: trained, and with relations if requested."""
        related = {"relations"} if self.relations != "none" else set()
        return (facts - self.loses) | {"trained", "reference"} | related

    def rehearse(self, state: State) -> nn.Module:
        """Check that the network has batch norms for relations."""
        if self.relations == "none" or relating_of(state.model):
            return state.model
        return self._related(state, "mean" if self.relations == "annealed" else self.relations)

    def run(self, state: State, at: Context) -> tuple[State, Sequence[Section]]:
        """Train a copy; if no step has trained before, it becomes the reference network."""
        if relating_of(state.model):
            said = "The network has channel relations already: sparsity training is skipped."
            at.show.say(f"  {said}")
            return state, [Section(title="Sparsity training", blocks=(Text(text=said),))]
        related = self.relations != "none"
        model = self._related(state, self.relations) if related else duplicate(state.model)
        training, choice = self._training(model, state, at)
        objective = self._objective(training, state)
        strength = objective.strength

        def tell(epoch: Epoch) -> None:
            at.show.say(f"    {spread(model)}")

        epochs = learn(model, state, training, at, "sparsity training", objective, tell)
        anneal(model, 1.0)  # a training of fewer than four steps ends before
        settle(model)
        what = f"{count(self.epochs, 'epoch')} of sparsity training, strength {strength:.2g}, {choice}: {spread(model)}"
        section = about_training("Sparsity training", what, epochs, at.level, state.task.metric)
        if related and spread(model).saturated:
            said = "The learned relations are uninformative (standard deviation below 0.02): only scales matter."
            at.show.say(f"  {said}")
            section = section.model_copy(update={"blocks": (*section.blocks, Text(text=said, tone="note"))})
        if "reference" in at.facts:
            return replace(state, model=model, origin=None), [section]
        reference = fold_relations(model) if self.relations in ("mean", "annealed") else model
        return replace(state, model=model, reference=reference, origin=None, kept={}), [section]

    def _related(self, state: State, mode: str) -> nn.Module:
        return insert_relations(state.model, state.example, mode, equal=self.equal_gates)

    def _training(self, model: nn.Module, state: State, at: Context) -> tuple[Training, RateChoice]:
        """Return the settings with the learning rate, which a trained network gets from a short look."""
        rate = self.learning_rate or LEARNING_RATES.get(self.optimizer, RATE)
        training, choice = training_of(self, learning_rate=rate, label_smoothing=0.0), RateChoice(rate=rate)
        if "trained" in at.facts and self.learning_rate is None:
            choice = rate_for(model, state.data, training, at, lambda tried: self._objective(tried, state))
        return training.model_copy(update={"learning_rate": choice.rate}), choice

    def _objective(self, training: Training, state: State) -> SparseScales:
        strength = self.strength or strength_for(training, len(state.data.train))
        return SparseScales(
            state.task.objective(self.label_smoothing), strength, self.penalty, self.update, self.polarization,
            self.epochs,
        )  # fmt: skip


def strength_for(training: Training, images: int) -> float:
    """Compute the lambda by which a scale that the loss does not need shrinks by `SHRINKAGE` over the whole training.

    lambda = 2 (1 - momentum) / sum of the learning rates of all steps, for any number of epochs. The shrinkage per
    step is at most 0.01; otherwise a short training would zero the scales before the network has learned. For 160
    epochs of 45,000 images with the default schedule, lambda is 7e-5; the papers use 1e-4.

    >>> f"{strength_for(Training(epochs=160), 45000):.1e}"
    '7.1e-05'
    """
    steps_in_all = training.epochs * math.ceil(images / training.batch_size)
    rates = [learning_rate(training, number, steps_in_all) for number in range(steps_in_all)]
    return min(SHRINKAGE / sum(rates), LARGEST_STEP / max(rates)) * (1 - training.momentum)
