"""Batch norm recalibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from slimcnn.graph.copying import duplicate
from slimcnn.recovery import recalibrate
from slimcnn.reporting.sections import Section, Text
from slimcnn.running.epochs import count
from slimcnn.running.settings import Seed
from slimcnn.running.step import Context, State, Step, steps


@steps.add("recalibrate", source="Wu & Johnson 2021, arXiv 2105.07576, section 3")
class Recalibrate(Step):
    """Re-estimate batch-norm means and variances on training images; no labels, no training."""

    needs: ClassVar = {"trained": "there is no trained network: give --weights FILE, or put train in front"}
    refuses: ClassVar = {
        "refitted": "least_squares has just fitted the layers to the batch-norm statistics they have, and new "
        "statistics would undo the fit: leave recalibrate out, or put it before least_squares"
    }
    loses = frozenset({"constants"})
    remedy = "leave recalibrate out, or give it more images"

    images: int = Field(default=1024, ge=1)
    """Number of training images."""
    seed: Seed = 0
    """Random seed that chooses the images."""

    def run(self, state: State, at: Context) -> tuple[State, Sequence[Section]]:
        """Recalibrate a copy."""
        model = duplicate(state.model)
        layers = recalibrate(model, state.images(self.images, self.seed))
        images = min(self.images, len(state.data.train))
        said = f"{count(layers, 'batch norm')} recalibrated on {images:,} training images."
        if not layers:
            said = "The network has no batch norm with running statistics; it is unchanged."
        at.show.say(f"  {said}")
        return replace(state, model=model if layers else state.model), [
            Section(title="Recalibration", blocks=(Text(text=said),))
        ]
