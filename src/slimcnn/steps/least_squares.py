"""Refit layers to reproduce the network's outputs before a cut or a rewrite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from slimcnn.graph.copying import duplicate
from slimcnn.recovery import least_squares, reuse_features, synthesize
from slimcnn.recovery.refit import Recovered
from slimcnn.reporting.sections import Column, Section, Table, Text
from slimcnn.running.settings import Seed
from slimcnn.running.step import Context, State, Step, steps
from slimcnn.training.processes import from_rank_zero


@steps.add("least_squares", source="ours; channel by channel: He, Zhang, Sun 2017, arXiv 1707.06168")
class LeastSquares(Step):
    """Refit the layers behind a cut or a rewrite by least squares; no labels, no training."""

    needs: ClassVar = {
        "origin": "there is no cut or rewrite to recover from: put prune or rewrite directly before it, without "
        "training in between"
    }
    gives = frozenset({"trained", "refitted"})
    loses = frozenset({"constants"})
    remedy = "give least_squares more images, or train instead"

    images: int = Field(default=1024, ge=1)
    """Number of training images; labels are not used."""
    seed: Seed = 0
    """Random seed that chooses the images."""
    synthetic: bool = False
    """Refit on images synthesized from batch-norm statistics instead; no real images are needed."""

    def run(self, state: State, at: Context) -> tuple[State, Sequence[Section]]:
        """Refit a copy; a layer keeps its weights if the output error on held-out images does not fall."""
        model = duplicate(state.model)
        found, weights = from_rank_zero(at.fabric, lambda: self._refitted(model, state, at))
        model.load_state_dict(weights)
        at.show.say(f"  {found}")
        return replace(state, model=state.model if found.undone else model), [self._about(found, state)]

    def _refitted(self, model: nn.Module, state: State, at: Context) -> tuple[Recovered, dict[str, Tensor]]:
        origin = state.origin
        assert origin is not None
        progress = at.show.counting("refitting layers")
        if origin.plan is None:
            found = reuse_features(model, origin.whole, self._images(origin.whole, state, at), progress)
        else:
            found = least_squares(model, *origin.cut, self._images(origin.whole, state, at), progress)
        return found, model.state_dict()

    def _images(self, whole: nn.Module, state: State, at: Context) -> Iterator[Tensor]:
        if not self.synthetic:
            return state.images(self.images, self.seed)
        return iter(
            synthesize(whole, state.data.shape, progress=at.show.counting("synthesizing images")).split(state.batch)
        )

    def _about(self, found: Recovered, state: State) -> Section:
        images = min(self.images, len(state.data.train))
        on = "images synthesized from batch-norm statistics" if self.synthetic else f"{images:,} training images"
        lead = f"Refitted on {on}, without labels. {str(found)[0].upper()}{str(found)[1:]}."
        rows = [(one.layer, one.before, one.after, one.penalty, one.why_kept) for one in found.layers]
        columns = (
            Column(title="layer", format="name"),
            Column(title="output MSE before", format="small"),
            Column(title="after", format="small"),
            Column(title="ridge penalty", format="small"),
            Column(title="why weights are unchanged"),
        )
        table = Table(columns=columns, rows=tuple(rows), title=f"{len(rows)} layers", folded=True)
        return Section(title="Least squares", blocks=(Text(text=lead), table))
