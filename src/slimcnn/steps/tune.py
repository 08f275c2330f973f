"""Imitate the network before pruning on unlabeled images, for a few minutes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from slimcnn.datasets import Dataset, Examples, Images, batches
from slimcnn.distillation import LastFeatures, Teacher
from slimcnn.distillation.terms import names_in, parts_of, without_term
from slimcnn.errors import ModelError, RecipeError, TrainingDiverged
from slimcnn.files import read_decision, write_text
from slimcnn.graph.copying import duplicate
from slimcnn.objectives import Objective
from slimcnn.reporting.sections import Section, Text
from slimcnn.running.compared import CLIP, NOT_COMPARED, compared_features, in_words
from slimcnn.running.epochs import about_training, count, learn
from slimcnn.running.imitation import cost_of_looks, imitation_for, settings_for
from slimcnn.running.settings import Seed
from slimcnn.running.step import Context, State, Step, steps
from slimcnn.tasks import Metric
from slimcnn.tasks.task import answer
from slimcnn.training import NamedMetric, Training, fit
from slimcnn.training.evaluation import evaluating
from slimcnn.training.processes import from_rank_zero

PASSES, MOST = 3, 60
"""Epochs in the time given, if there are enough images: more images beat more passes. The most epochs otherwise."""
HELD_OUT = 2000
"""Most validation images on which the distance is measured after every epoch."""
IN_MEMORY = 2**30
"""Most bytes of images that are read from a stream into memory."""
UNTIMED = 15_000
"""Images seen in all epochs together if nothing may depend on measured time (--deterministic)."""
TIMED = 8
"""Steps that are timed."""
HIGHEST = 0.01
"""The highest learning rate of SGD that is tried; it falls in proportion if a step has fewer images than usual."""
STEPS = 100
"""Steps are made of fewer images if there would be fewer than this in all."""
SMALLEST = 16
"""Images in such a step, at least."""
TITLE = "Tuning without labels"
DISTANCE = Metric("distance from the reference", unit="", higher_is_better=False)
ERROR = Metric("error of the features", unit="%", higher_is_better=False)
FEATURES, ANSWERS = "features", "kd:temperature=4"
"""Losses: the features before the last layer, and the answers, where those cannot be compared."""
PLANNED = "tuning.json"
"""File in the folder of the step."""


class Amount(BaseModel):
    """How much is trained: the images, and the passes over them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    epochs: int


@steps.add("tune", source="features: Wang et al. 2022, arXiv 2201.02620; answers: Hinton et al. 2015, arXiv 1503.02531")
class Tune(Step):
    """Imitate the reference on unlabeled images for a few minutes."""

    needs: ClassVar = {
        "trained": "there are no trained weights to tune: give --weights FILE, or put train in front",
        "reference": "there is no trained network to imitate: give --weights FILE, or put train in front",
    }
    gives = frozenset({"trained"})
    loses = frozenset({"origin", "cut", "constants", "refitted"})
    trains = True
    remedy = "give it more minutes or more images, use a lower learning rate, or leave it out"

    minutes: float = Field(default=5.0, gt=0)
    """Time for looks and training; the images and epochs that fit are measured once. Not used if both are given."""
    images: int | None = Field(default=None, ge=1)
    """Most training images, without labels; default: as many as can be seen three times."""
    epochs: int | None = Field(default=None, ge=1)
    """Passes over the images; default: as many as the time allows, at most 60."""
    loss: str = FEATURES
    """features: the error of the features that the last layer reads, in percent of their variance; if the network's
    channels are not the reference's, as those of a student, the answers: kd:temperature=4. Or a sum of loss terms
    (`slimcnn list losses`); cross entropy, with the reference's answers, counts only if it is named."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of SGD; default: 0.01, 0.002 or 0.0005 (less for small steps), by a short look at each."""
    optional: bool = False
    """Leave the network as it is where a task's answers cannot take the place of labels; the report says so."""
    batch_size: int | None = Field(default=None, ge=1)
    """Images per step; default: 128, or 16 where every pixel has a target; fewer if there would be under 100 steps."""
    frozen_batch_norm: bool | None = None
    """Batch norms keep their stored statistics; default: by the same look."""
    seed: Seed = 0
    """Random seed that chooses the images, their order and their augmentation."""

    @model_validator(mode="after")
    def _known(self) -> Tune:
        parts_of(_unlabeled(self.loss))
        return self

    def rehearse(self, state: State) -> nn.Module:
        """Check the loss, and that a network can learn from the reference's answers."""
        why = _why_not(state)
        if why and not self.optional:
            raise RecipeError(f"tune: {why}: use distill instead")
        if not why:
            state.task.distilling(_unlabeled(without_term(self.loss, FEATURES) or ANSWERS), Teacher(state.reference))
        return state.model

    def run(self, state: State, at: Context) -> tuple[State, Sequence[Section]]:
        """Train a copy; the epoch that is nearest to the reference on held-out images is kept.

        Nearest by the loss: which class is first says too little on images that the reference was trained on, where
        nearly all answers agree anyway (see benchmarks/label_free_tuning).
        """
        self.rehearse(state)
        if why := _why_not(state):
            return state, [_untuned(f"No tuning: {why}.", at, "note")]
        try:
            return self._tuned(state, at)
        except TrainingDiverged as error:  # compress tunes unasked: that must not cost the run
            said = f"Tuning diverged, so the network is as it was before: {error}."
            return state, [_untuned(said, at, "bad")]

    def _tuned(self, state: State, at: Context) -> tuple[State, Sequence[Section]]:
        student, data = duplicate(state.model), state.data
        amount = self._amount(student, state, at)
        chosen, held_out = _drawn(data.train, amount.images, self.seed), _drawn(data.validation, HELD_OUT, 0)
        # The labels are replaced, so nothing can read them.
        answered = replace(data, train=_answered(chosen, state, at), validation=_answered(held_out, state, at))
        size = self.batch_size or enough_steps(amount, state.batch)
        loss, where = self._compared(student, state, at)
        training, objective = self._training(amount.epochs, size, state.batch), self._objective(state, loss, where)
        if where is not None:
            training = training.model_copy(update={"clip_norm": CLIP})
        metric = ERROR if loss == FEATURES else DISTANCE
        nearest = NamedMetric(metric, partial(_distance, objective=objective, data=answered, batch=state.batch))
        choice = imitation_for(
            student, answered, training, objective, nearest, at, self.learning_rate, self.frozen_batch_norm
        )
        training = settings_for(training, choice.way)
        epochs = learn(student, replace(state, data=answered), training, at, "tuning", objective, validation=nearest)
        epochs = [replace(one, train_accuracy=math.nan) for one in epochs]  # a share of right answers, not a distance
        what = (
            f"{count(amount.epochs, 'epoch')} on {amount.images:,} training images without labels, "
            f"{_in_words(loss, where)}, {training.batch_size} images a step, {choice}. "
            f"The {metric.name} is the loss on {len(held_out):,} validation images, whose labels are not read either"
        )
        section = about_training(TITLE, what, epochs, None, metric)
        return replace(state, model=student, origin=None), [section]

    def _compared(self, student: nn.Module, state: State, at: Context) -> tuple[str, LastFeatures | None]:
        """Return the loss, and the features that it compares if it compares some."""
        if FEATURES not in names_in(self.loss):
            return self.loss, None
        where = compared_features(student, state)
        if where is not None:
            return self.loss, where
        if self.loss != FEATURES:
            raise RecipeError(f"tune: loss {self.loss!r}: {NOT_COMPARED}: leave features out")
        at.show.say(f"  {NOT_COMPARED}: only answers are")
        return ANSWERS, None

    def _objective(self, state: State, loss: str, where: LastFeatures | None) -> Objective:
        return state.task.distilling(_unlabeled(loss), Teacher(state.reference, compared=where))

    def _amount(self, model: nn.Module, state: State, at: Context) -> Amount:
        """Plan the images and epochs once: a resumed step uses the same."""
        train = state.data.train
        available = min(len(train), self.images or len(train))
        if state.data.streamed:
            available = min(available, max(1, IN_MEMORY // math.prod(train.shape)))
        if self.images is not None and self.epochs is not None:
            return Amount(images=available, epochs=self.epochs)
        place = at.folder / PLANNED
        known = from_rank_zero(at.fabric, lambda: read_decision(place, Amount, "plan the tuning again"))
        if known is not None:
            return known
        seen = (
            int(self._speed(model, state, at) * 60 * self.minutes / (1 + self._looks(model))) if at.timed else UNTIMED
        )
        planned = from_rank_zero(at.fabric, lambda: affordable(seen, available, self.epochs))
        from_rank_zero(at.fabric, lambda: write_text(place, planned.model_dump_json() + "\n"))
        return planned

    def _looks(self, model: nn.Module) -> float:
        """Return the time of the looks at ways to train, as a share of the training."""
        return cost_of_looks(model, Training(learning_rate=HIGHEST), self.learning_rate, self.frozen_batch_norm)

    def _speed(self, model: nn.Module, state: State, at: Context) -> float:
        """Return training images per second, from a few steps of a copy."""
        data, size = state.data, self.batch_size or state.batch
        few = replace(
            data,
            train=_drawn(data.train, TIMED * size, 0),
            validation=_drawn(data.validation, size, 0),
        )
        training = at.decide(self._training(1, size, state.batch), model, data)
        devices = [at.fabric.device] if at.fabric.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            objective = self._objective(state, without_term(self.loss, FEATURES) or ANSWERS, None)
            (epoch,) = fit(duplicate(model), few, training=training, objective=objective, fabric=at.fabric)
        return epoch.images_per_second

    def _training(self, epochs: int, size: int, usual: int) -> Training:
        rate = self.learning_rate or HIGHEST * min(1.0, size / usual)
        return Training(epochs=epochs, batch_size=size, learning_rate=rate, seed=self.seed)


def _unlabeled(loss: str) -> str:
    """Leave cross entropy out of a loss that does not name it: there is no label."""
    return loss if "cross_entropy" in names_in(loss) else f"0*cross_entropy+{loss}"


def _in_words(loss: str, where: LastFeatures | None) -> str:
    if where is None:
        return f"loss {loss}"
    if loss == FEATURES:
        return (
            f"minimizing the error of the features that the last layer reads ({in_words(where)}) in percent of their "
            "variance"
        )
    return f"loss {loss} (features: {in_words(where)})"


def enough_steps(amount: Amount, size: int) -> int:
    """Return the images per step: `size`, or less so that there are enough steps.

    >>> enough_steps(Amount(images=20_000, epochs=3), 128), enough_steps(Amount(images=600, epochs=6), 128)
    (128, 32)
    >>> enough_steps(Amount(images=20, epochs=1), 128), enough_steps(Amount(images=20, epochs=1), 8)
    (16, 8)
    """
    while size > SMALLEST and amount.images * amount.epochs < STEPS * size:
        size = max(SMALLEST, size // 2)
    return size


def affordable(seen: int, available: int, epochs: int | None = None) -> Amount:
    """Share the training images that can be seen in all among images and epochs.

    >>> affordable(60_000, 50_000), affordable(60_000, 5_000), affordable(60_000, 1_000)
    (Amount(images=20000, epochs=3), Amount(images=5000, epochs=12), Amount(images=1000, epochs=60))
    >>> affordable(60_000, 50_000, epochs=6), affordable(10, 50_000)
    (Amount(images=10000, epochs=6), Amount(images=128, epochs=1))
    """
    images = min(available, max(128, seen // (epochs or PASSES)))
    return Amount(images=images, epochs=epochs or max(1, min(MOST, seen // images)))


@torch.no_grad()
def _distance(model: nn.Module, objective: Objective, data: Dataset, batch: int) -> float:
    """Return the mean loss on the validation images."""
    total = 0.0
    device = next(model.parameters()).device
    for x, y in batches(data.validation, batch, normalization=data.normalization, device=device):
        total += float(objective(model, x, y).total) * len(x)
    found = total / len(data.validation)
    if not math.isfinite(found):
        raise ModelError("the loss is not finite")
    return found


def _untuned(said: str, at: Context, tone: Literal["note", "bad"]) -> Section:
    """Say in the terminal and in the report why the network was not changed."""
    at.show.say(f"  {'WARNING: ' if tone == 'bad' else ''}{said}")
    return Section(title=TITLE, blocks=(Text(text=said, tone=tone),))


def _why_not(state: State) -> str:
    """Return why the reference's answers cannot take the place of labels; empty if they can."""
    if state.data.ready:
        return f"{state.data.name} returns tensors that are normalized, not images"
    with evaluating(state.reference, torch.device("cpu")), torch.no_grad():  # on zeros: any answers will do
        found = state.task.as_targets(answer(state.reference, state.example), state.example)
    return "" if found is not None else f"answers of the task {state.data.task} cannot take the place of labels"


def _drawn(images: Examples, n: int, seed: int) -> Images:
    """Return at most n images in memory, drawn without a look at their labels."""
    return images.limit(n, seed=seed, by_class=False).in_memory()


def _answered(images: Images, state: State, at: Context) -> Images:
    """Return the images with the reference's answers in place of their labels."""
    device, found = at.fabric.device, []
    with evaluating(state.reference, device), torch.no_grad():
        for x, _ in batches(images, state.batch, normalization=state.data.normalization, device=device):
            targets = state.task.as_targets(answer(state.reference, x), x)
            assert targets is not None
            found.append(targets.cpu())
    return Images(images.pixels, torch.cat(found))
