"""Training with labels: from scratch, or fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from slimcnn.graph.copying import duplicate
from slimcnn.reporting.sections import Section
from slimcnn.running.epochs import about_training, count, learn, training_of
from slimcnn.running.rates import RateChoice, rate_for
from slimcnn.running.step import Context, State, Step, steps
from slimcnn.training import Training
from slimcnn.training.settings import LEARNING_RATES

FROM_SCRATCH, FINE_TUNING = 0.1, 0.01
"""Learning rates of SGD."""


@steps.add("train", source="cross entropy and SGD")
class Train(Step, Training):
    """Train with labels: from scratch if the network has no trained weights, else fine-tuning."""

    gives = frozenset({"trained", "reference"})
    loses = frozenset({"origin", "cut", "constants", "refitted"})
    trains = True
    remedy = "use a lower learning rate, or keep the best epoch (--keep best)"

    images: int | None = Field(default=None, ge=1)
    """Number of training images; default: all."""
    learning_rate: float | None = None  # type: ignore[assignment]
    """Peak learning rate; default 0.1 from scratch (adamw: 0.001). For a trained network, 0.01 (adamw: 0.001), 0.3 or
    0.1 of it: the largest that does not lower validation top-1 in a short look."""

    def run(self, state: State, at: Context) -> tuple[State, Sequence[Section]]:
        """Train a copy; after the first training of a run, it is the reference network."""
        model, some = duplicate(state.model), state.on_images(self.images, self.seed)
        first = not at.facts & {"trained"}
        rate = self.learning_rate or LEARNING_RATES.get(self.optimizer, FROM_SCRATCH if first else FINE_TUNING)
        training, choice = training_of(self, learning_rate=rate), RateChoice(rate=rate)
        if not first and self.learning_rate is None:
            choice = rate_for(model, some.data, training, at)
            training = training_of(training, learning_rate=choice.rate)
        epochs = learn(model, some, training, at, "training" if first else "fine-tuning")
        how = "from scratch" if first else "of fine-tuning"
        what = f"{count(self.epochs, 'epoch')} {how}, {choice}"
        section = about_training("Training", what, epochs, None if first else at.level, state.task.metric)
        reference = state.reference if at.facts & {"reference"} else model
        origin_of = state.network if reference is model else state.reference_network
        return replace(state, model=model, reference=reference, reference_network=origin_of, origin=None), [section]
