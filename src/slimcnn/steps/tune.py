"""Imitate the network before pruning on unlabeled images, for a few minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from slimcnn.datasets import Images
from slimcnn.distillation import Teacher, objective_named
from slimcnn.errors import RunError
from slimcnn.files import write_text
from slimcnn.graph.copying import duplicate
from slimcnn.reporting.sections import Section
from slimcnn.running.epochs import about_training, count, learn
from slimcnn.running.settings import Seed
from slimcnn.running.step import Context, State, Step, steps
from slimcnn.training import Training, answers, fit
from slimcnn.training.processes import from_rank_zero

PASSES, MOST = 3, 16
"""Epochs in the time given, if there are enough images: more images beat more passes. The most epochs otherwise."""
HELD_OUT = 2000
"""Most validation images on which agreement is measured after every epoch."""
UNTIMED = 15_000
"""Images seen in all epochs together if nothing may depend on measured time (--deterministic)."""
TIMED = 8
"""Steps that are timed."""
AGREEMENT = "agreement with the reference"
PLANNED = "tuning.json"
"""File in the folder of the step."""


class Amount(BaseModel):
    """How much is trained: the images, and the passes over them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    epochs: int


@steps.add("tune", source="ours; learning from a network's answers: Hinton, Vinyals, Dean 2015, arXiv 1503.02531")
class Tune(Step):
    """Imitate the reference's answers on unlabeled images for a few minutes."""

    needs: ClassVar = {
        "trained": "there are no trained weights to tune: give --weights FILE, or put train in front",
        "reference": "there is no trained network to imitate: give --weights FILE, or put train in front",
    }
    gives = frozenset({"trained"})
    loses = frozenset({"origin", "cut", "constants", "refitted"})
    trains = True
    remedy = "give it more minutes or more images, use a lower learning rate, or leave it out"

    minutes: float = Field(default=5.0, gt=0)
    """Time for training; the images and epochs that fit are measured once. Not used if images and epochs are given."""
    images: int | None = Field(default=None, ge=1)
    """Most training images, without labels; default: as many as can be seen three times."""
    epochs: int | None = Field(default=None, ge=1)
    """Passes over the images; default: as many as the time allows, at most 16."""
    loss: str = "0*cross_entropy+kd:temperature=4"
    """Sum of loss terms (`slimcnn list losses`); cross entropy is with the reference's answers."""
    learning_rate: float = Field(default=0.01, gt=0)
    """Peak learning rate of SGD."""
    batch_size: int = Field(default=128, ge=1)
    """Images per step."""
    seed: Seed = 0
    """Random seed that chooses the images, their order and their augmentation."""

    def rehearse(self, state: State) -> nn.Module:
        """Check the loss."""
        objective_named(self.loss, Teacher(state.reference))
        return state.model

    def run(self, state: State, at: Context) -> tuple[State, Sequence[Section]]:
        """Train a copy; the epoch whose answers agree most often with the reference's is kept."""
        student, data = duplicate(state.model), state.data
        amount = self._amount(student, state, at)
        chosen, held_out = _drawn(data.train, amount.images, self.seed), _drawn(data.validation, HELD_OUT, 0)
        # The labels are replaced, so nothing can read them.
        answered = replace(data, train=_answered(chosen, state, at), validation=_answered(held_out, state, at))
        objective = objective_named(self.loss, Teacher(state.reference))
        training = self._training(amount.epochs)
        epochs = learn(student, replace(state, data=answered), training, at, "tuning", objective, top1=AGREEMENT)
        what = (
            f"{count(amount.epochs, 'epoch')} on {amount.images:,} training images without labels, loss {self.loss}, "
            f"learning rate {self.learning_rate:g}. Top-1 is {AGREEMENT}, on {len(held_out):,} validation images"
        )
        section = about_training("Tuning without labels", what, epochs, 100.0, top1=AGREEMENT)
        return replace(state, model=student, origin=None), [section]

    def _amount(self, model: nn.Module, state: State, at: Context) -> Amount:
        """Plan the images and epochs once: a resumed step uses the same."""
        available = len(state.data.train) if self.images is None else min(self.images, len(state.data.train))
        if self.images is not None and self.epochs is not None:
            return Amount(images=available, epochs=self.epochs)
        place = at.folder / PLANNED
        known = from_rank_zero(at.fabric, lambda: _read(place))
        if known is not None:
            return known
        seen = int(self._speed(model, state, at) * 60 * self.minutes) if at.timed else UNTIMED
        planned = from_rank_zero(at.fabric, lambda: affordable(seen, available, self.epochs))
        from_rank_zero(at.fabric, lambda: write_text(place, planned.model_dump_json() + "\n"))
        return planned

    def _speed(self, model: nn.Module, state: State, at: Context) -> float:
        """Return training images per second, from a few steps of a copy."""
        data = state.data
        few = replace(
            data,
            train=_drawn(data.train, TIMED * self.batch_size, 0),
            validation=_drawn(data.validation, self.batch_size, 0),
        )
        training = at.decide(self._training(1), model, data)
        devices = [at.fabric.device] if at.fabric.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            objective = objective_named(self.loss, Teacher(state.reference))
            (epoch,) = fit(duplicate(model), few, training=training, objective=objective, fabric=at.fabric)
        return epoch.images_per_second

    def _training(self, epochs: int) -> Training:
        return Training(epochs=epochs, batch_size=self.batch_size, learning_rate=self.learning_rate, seed=self.seed)


def affordable(seen: int, available: int, epochs: int | None = None) -> Amount:
    """Share the training images that can be seen in all among images and epochs.

    >>> affordable(60_000, 50_000), affordable(60_000, 5_000), affordable(60_000, 1_000)
    (Amount(images=20000, epochs=3), Amount(images=5000, epochs=12), Amount(images=1000, epochs=16))
    >>> affordable(60_000, 50_000, epochs=6), affordable(10, 50_000)
    (Amount(images=10000, epochs=6), Amount(images=128, epochs=1))
    """
    images = min(available, max(128, seen // (epochs or PASSES)))
    return Amount(images=images, epochs=epochs or max(1, min(MOST, seen // images)))


def _drawn(images: Images, n: int, seed: int) -> Images:
    """Return at most n images, drawn without a look at their labels."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images.take(order[:n].sort().values)


def _answered(images: Images, state: State, at: Context) -> Images:
    """Return the images with the reference's answers in place of their labels."""
    return Images(images.pixels, answers(state.reference, images, state.data.normalization, device=at.fabric.device))


def _read(path: Path) -> Amount | None:
    try:
        return Amount.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        reason = str(error).partition("\n")[0]
        raise RunError(f"cannot use {path}: {reason}; delete it to plan the tuning again") from error
