"""Replace layers by cheaper structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from slimcnn.layers.reusing import units_in
from slimcnn.recovery import reuse_features
from slimcnn.reporting.figures.units import Units
from slimcnn.reporting.sections import Column, Figure, Section, Table, Text
from slimcnn.rewriting import Rewritten, rewrite_named, rewritten
from slimcnn.running.step import Context, Facts, Origin, State, Step, steps
from slimcnn.training.processes import from_rank_zero


@steps.add("rewrite", source="rewrites: slimcnn list rewrites; Ji, Yang, Huang, Yin 2019 for feature reuse")
class Rewrite(Step):
    """Replace layers by cheaper structures, and initialize the new layers from the features of the old ones."""

    costs = True
    refuses: ClassVar = {"relations": "the network has channel relations: put prune in front, which folds them"}

    rule: str = "feature_reuse"
    """A rewrite (`slimcnn list rewrites`), with options such as feature_reuse:variant=chain."""
    init: Literal["reuse", "random"] = "reuse"
    """reuse: least squares from the original's features, on training images; random: needs training."""
    images: int = Field(default=1024, ge=1)
    """Number of training images for init=reuse; labels are not used."""

    @model_validator(mode="after")
    def _known(self) -> Rewrite:
        rewrite_named(self.rule)
        return self

    def needed(self) -> Mapping[str, str]:
        """Trained weights, unless the new layers are initialized randomly."""
        why = "there is no trained network to start from: give --weights FILE, put train in front, or use init=random"
        return {"trained": why} if self.init == "reuse" and self._makes_new_layers else {}

    @property
    def _makes_new_layers(self) -> bool:
        return self.rule.partition(":")[0] not in ("scatter", "relations", "materialize")

    def refused(self) -> Mapping[str, str]:
        """Refuse a second feature reuse."""
        twice = {"units": "the network has feature reuse already: leave one of the two rewrites out"}
        return {**self.refuses, **(twice if self._makes_new_layers else {})}

    def after(self, facts: Facts) -> Facts:
        """Rewrites that compute the same function keep the facts; others need training or a refit."""
        kept = facts - {"cut", "constants", "origin"}
        if not self._makes_new_layers:
            return kept | ({"relations"} if self.rule.startswith("relations") else set())
        kept = (kept - {"refitted"}) | {"units"}
        if "trained" not in facts:
            return kept
        return kept | {"origin"} if self.init == "reuse" else (kept | {"origin"}) - {"trained"}

    def rehearse(self, state: State) -> nn.Module:
        """Check the rewrite on a network of the same structure."""
        return rewritten(state.model, self.rule, state.example).model

    def run(self, state: State, at: Context) -> tuple[State, Sequence[Section]]:
        """Rewrite a copy."""
        found = rewritten(state.model, self.rule, state.example)
        done = sum(bool(one.what) for one in found.changes)
        at.show.say(f"  {self.rule}: {done} of {len(found.changes)} layers rewritten")
        model, said = found.model, ""
        if self.init == "reuse" and units_in(model):

            def refitted() -> tuple[str, dict[str, Tensor]]:
                progress = at.show.counting("refitting layers")
                return str(reuse_features(model, state.model, state.images(self.images), progress)), model.state_dict()

            said, weights = from_rank_zero(at.fabric, refitted)
            model.load_state_dict(weights)
            at.show.say(f"  {said}")
        origin = Origin(state.model) if units_in(model) and "trained" in at.facts else None
        kept = None if self.init == "random" and self._makes_new_layers else state.kept
        return replace(state, model=model, origin=origin, kept=kept), [_about(self.rule, found, said)]


def _about(rule: str, found: Rewritten, said: str) -> Section:
    units = units_in(found.model)
    initialized = f" Initialized from the original's features: {said}." if said else ""
    blocks: list[Text | Table | Figure] = [Text(text=f"Rewrite {rule}.{initialized}")]
    if units:
        fields = ("place", "reads", "makes", "reused", "dense", "residual")
        blocks.append(Units(units=[{name: getattr(one, name) for name in fields} for one in units]).block())  # type: ignore[arg-type]
    rows = tuple((one.layer, one.what or "unchanged", one.why_left) for one in found.changes)
    done = sum(bool(one.what) for one in found.changes)
    columns = (Column(title="layer", format="name"), Column(title="change"), Column(title="why unchanged"))
    title = f"{done} layers rewritten, {len(rows) - done} unchanged, with the reasons"
    blocks.append(Table(columns=columns, rows=rows, title=title, folded=bool(units)))
    return Section(title="Rewritten layers", blocks=tuple(blocks))
