"""Find errors of later steps before the first step runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from slimcnn.running.step import State, Step
from slimcnn.show import Show
from slimcnn.training import Training
from slimcnn.training.augmenting import check_augmentation
from slimcnn.training.optimizers import refuse_missing_optimizer


def rehearse(chain: Sequence[Step], state: State, show: Show) -> None:
    """Check that all steps can run, if a step that may take hours is followed by others."""
    if not any(step.trains for step in chain[:-1]):
        return
    show.say("checking all steps before the first one runs")
    for step in chain:
        if isinstance(step, Training):
            check_augmentation(step, state.data)
            refuse_missing_optimizer(step)
        state = replace(state, model=step.rehearse(state))
