"""Training with labels: from scratch, fine-tuning, or with a new head for other classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field
from torch import nn

from slimcnn.errors import RecipeError
from slimcnn.graph.copying import duplicate
from slimcnn.reporting.sections import Section, Text
from slimcnn.rewriting import find_head, replace_head
from slimcnn.running.epochs import about_training, count, learn, training_of
from slimcnn.running.loading import other_classes_of
from slimcnn.running.rates import RateChoice, rate_for
from slimcnn.running.step import OTHER_CLASSES, Context, State, Step, steps
from slimcnn.training import Training
from slimcnn.training.settings import LEARNING_RATES

FROM_SCRATCH, FINE_TUNING = 0.1, 0.01
"""Learning rates of SGD."""


@steps.add("train", source="cross entropy and SGD")
class Train(Step, Training):
    """Train with labels: from scratch if the network has no trained weights, else fine-tuning.

    A network whose number of outputs is not the number of classes gets a new head.
    """

    gives = frozenset({"trained", "reference"})
    loses = frozenset({"origin", "cut", "constants", "refitted", OTHER_CLASSES})
    trains = True
    remedy = "use a lower learning rate, or keep the best epoch (--keep best)"

    images: int | None = Field(default=None, ge=1)
    """Number of training images; default: all."""
    learning_rate: float | None = None  # type: ignore[assignment]
    """Peak learning rate; default 0.1 from scratch, 0.01 with a new head on trained layers (adamw: 0.001). For a
    trained network, 0.01 (adamw: 0.001), 0.3 or 0.1 of it: the largest that does not worsen the validation metric in a
    short look."""
    frozen_epochs: int | None = Field(default=None, ge=0)  # type: ignore[assignment]
    """Epochs at the start that train only the head. The other layers keep their weights and run in eval mode, so batch
    norm uses its stored statistics and does not change them, and dropout is off. The schedule covers all epochs.
    Default: 0; with a new head on trained layers, a fifth of the epochs, at least 1 of 2."""
    new_head: bool = False
    """Replace the head although the network has as many outputs as the data has classes."""

    def rehearse(self, state: State) -> nn.Module:
        """Replace the head, if it would be replaced."""
        return self._fitting(state)[0]

    def _fitting(self, state: State) -> tuple[nn.Module, str]:
        """Return the network for the classes of the data; with a new head, a copy and a sentence about the head."""
        differ = other_classes_of(state.model, state.data)
        if not differ and not self.new_head:
            return state.model, ""
        if state.data.task != "classification":
            raise RecipeError(f"new_head replaces heads of classifiers, and this is {state.data.task}: leave it out")
        old, classes = find_head(state.model, state.example, self.head), len(state.data.classes)
        model = replace_head(state.model, state.example, classes, seed=self.seed, within=self.head)
        why = f": {differ}" if differ else ""
        return model, (
            f"The head {old.name} ({old.inputs:,} x {old.outputs:,}) was replaced by a new layer ({old.inputs:,} x "
            f"{classes:,}) with random weights, seed {self.seed}{why}."
        )

    def run(self, state: State, at: Context) -> tuple[State, Sequence[Section]]:
        """Train a copy; after the first training of a run, it is the reference network."""
        (fitting, replaced), some = self._fitting(state), state.on_images(self.images, self.seed)
        model = fitting if replaced else duplicate(fitting)
        first = not at.facts & {"trained"}
        transfer = bool(replaced) and not first
        rate = self.learning_rate or LEARNING_RATES.get(self.optimizer, FROM_SCRATCH if first else FINE_TUNING)
        frozen = self.frozen_epochs if self.frozen_epochs is not None else frozen_first(self.epochs) * transfer
        settled = {"frozen_epochs": frozen, "head": self.head or (_name_of_head(model, state) if replaced else "")}
        training, choice = training_of(self, learning_rate=rate, **settled), RateChoice(rate=rate)
        if replaced:
            at.show.say(f"  {replaced}")
        if not first and not replaced and self.learning_rate is None:
            choice = rate_for(model, some.data, training, at)
            training = training_of(training, learning_rate=choice.rate)
        epochs = learn(model, some, training, at, "training" if first else "fine-tuning")
        how = "from scratch" if first else "with a new head" if replaced else "of fine-tuning"
        what = f"{count(self.epochs, 'epoch')} {how}, {choice}"
        section = about_training("Training", what, epochs, None if first or replaced else at.level, state.task.metric)
        if replaced or frozen or self.depth_decay != 1:
            said = Text(text=" ".join(filter(None, [replaced, _phases(training)])))
            section = section.model_copy(update={"blocks": (said, *section.blocks)})
        reference = state.reference if at.facts & {"reference"} and not replaced else model
        origin_of = state.network if reference is model else state.reference_network
        kept = {} if reference is model else state.kept
        after = replace(state, model=model, reference=reference, reference_network=origin_of, origin=None, kept=kept)
        return after, [section]


def frozen_first(epochs: int) -> int:
    """Return how many of the epochs train only a new head, by default.

    >>> [frozen_first(epochs) for epochs in (1, 2, 10, 30)]
    [0, 1, 2, 6]
    """
    return 0 if epochs == 1 else max(1, epochs // 5)


def _name_of_head(model: nn.Module, state: State) -> str:
    return find_head(model, state.example).name


def _phases(training: Training) -> str:
    """Say which epochs train which layers, and with which rates."""
    found = []
    if training.frozen_epochs:
        first = "epoch 1" if training.frozen_epochs == 1 else f"epochs 1 to {training.frozen_epochs}"
        found.append(
            f"In {first} of {training.epochs}, only {training.head or 'the last layer'} was trained; all other layers "
            "kept their weights, and batch norm used its stored statistics."
        )
    if training.depth_decay != 1:
        found.append(
            f"Learning rates fall toward the input: the first layer's is {training.depth_decay:g} of the last layer's."
        )
    return " ".join(found)
