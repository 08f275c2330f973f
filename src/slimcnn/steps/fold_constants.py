"""Fold the constant outputs of removed channels into the next layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from slimcnn.graph.copying import duplicate
from slimcnn.recovery import fold_constants
from slimcnn.reporting.sections import Section, Text
from slimcnn.running.step import Context, State, Step, steps


@steps.add("fold_constants", source="Ye et al. 2018, arXiv 1802.00124, section 4")
class FoldConstants(Step):
    """Fold the constant outputs of removed channels into the next layers; no images, no training."""

    needs: ClassVar = {
        "cut": "there is no cut whose constants could be folded: put prune directly before it, without training in "
        "between",
        "constants": "an earlier step has already compensated the constants of the removed channels: leave this step "
        "out, or put it directly after prune",
    }
    loses = frozenset({"constants"})

    def run(self, state: State, at: Context) -> tuple[State, Sequence[Section]]:
        """Fold the constants into a copy of the network."""
        assert state.origin is not None
        model = duplicate(state.model)
        found = str(fold_constants(model, *state.origin.cut))
        at.show.say(f"  {found}")
        return replace(state, model=model), [Section(title="Constants", blocks=(Text(text=found),))]
