"""The strength of the sparsity penalty in trainings of any length."""

from __future__ import annotations

import pytest

from slimcnn.steps.sparsify import LARGEST_STEP, SHRINKAGE, strength_for
from slimcnn.training import Training
from slimcnn.training.schedule import learning_rate


def rates(training: Training, steps: int) -> list[float]:
    return [learning_rate(training, number, steps) for number in range(steps)]


def test_a_short_training_takes_no_step_of_more_than_a_hundredth() -> None:
    training = Training(epochs=1, batch_size=10)
    largest = strength_for(training, 30) * max(rates(training, 3)) / (1 - training.momentum)
    assert largest == pytest.approx(LARGEST_STEP) == pytest.approx(0.01)


def test_over_a_long_training_a_scale_that_nothing_needs_loses_the_whole_shrinkage() -> None:
    training = Training(epochs=50, batch_size=10)
    lost = strength_for(training, 100) * sum(rates(training, 500)) / (1 - training.momentum)
    assert lost == pytest.approx(SHRINKAGE)
