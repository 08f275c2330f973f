"""A run, from recipe to report: load, check the whole chain, then one step after the other, each saved when it is done."""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from slimcnn.distillation.answers import digest_of
from slimcnn.files import write_text
from slimcnn.measuring import measure
from slimcnn.running.finishing import Result, finish
from slimcnn.running import folder as disk
from slimcnn.running.decisions import Decisions
from slimcnn.running.loading import Loaded, load_with_data
from slimcnn.running.order import facts_before
from slimcnn.running.recipe import Recipe
from slimcnn.running.rehearsal import rehearse
from slimcnn.running.saving import Done, read_state, write_state
from slimcnn.running.step import Context, Facts, State, Step
from slimcnn.show import SILENT, Show
from slimcnn.training import evaluate
from slimcnn.training.processes import from_rank_zero, launched

if TYPE_CHECKING:
    from lightning_fabric import Fabric


FROM_WEIGHTS: Facts = frozenset({"trained", "reference"})
"""What is known of a network that comes with weights."""


@dataclass(frozen=True)
class Run:
    """What all steps of a run have in common."""

    recipe: Recipe
    root: Path
    """The run's folder."""
    loaded: Loaded
    fabric: Fabric
    show: Show
    decisions: Decisions
    command: str = ""
    given: nn.Module | None = None
    """The network, where Python gave it and no name."""
    shared: dict[str, Any] = field(default_factory=dict)
    """See `Context.shared`."""


def run(
    recipe: Recipe, *, show: Show = SILENT, fabric: Fabric | None = None, command: str = "",
    given: Loaded | None = None, trained: bool = True,
) -> Result:  # fmt: skip
    """Do everything that a recipe asks for, in its folder; go on where an earlier call was interrupted.

    Every step has a digest of its settings, of all steps before it and of the input weights. A step whose folder holds
    results of the same digest is not run again, so a mended recipe keeps the steps that did not change.

    Args:
        recipe: what to do.
        show: how to tell what happens.
        fabric: processes and devices; by default one process on the best device, or all of torchrun.
        command: what the report says to type to repeat the run.
        given: a network and data of the caller's, instead of those that the recipe names ...
        trained: ... and whether that network's weights were learned.

    Raises:
        SlimcnnError: anything that the user can fix, in one line; `RecipeError` for an order that makes no sense,
            before anything runs.
    """
    known = recipe.network.weights is not None if given is None else trained
    facts_before(recipe.steps, FROM_WEIGHTS if known else frozenset())
    fabric = launched(fabric)
    show = show if fabric.is_global_zero else SILENT
    root = Path(recipe.out)
    with ExitStack() as held:
        from_rank_zero(fabric, lambda: held.enter_context(disk.locked(root)) and None)
        loaded = given or _load(recipe, show, fabric)
        base = _base(recipe, given)
        from_rank_zero(fabric, lambda: disk.begin(recipe, root, base))
        decisions = Decisions(root, recipe.deterministic, fabric)
        this = Run(recipe, root, loaded, fabric, show, decisions, command, loaded.model if given else None)
        state, start = _start(this, base, known)
        if recipe.curve:
            from slimcnn.running.curve import run_curve

            return run_curve(this, state, start)
        done = follow(this, recipe.steps, state, start, root, 1)
        return finish(this, done, start)


def _load(recipe: Recipe, show: Show, fabric: Fabric) -> Loaded:
    if fabric.world_size > 1:
        # One process fetches; the others find the cache filled.
        from_rank_zero(fabric, lambda: load_with_data(recipe.network, recipe.data, show).normalization)
    return load_with_data(recipe.network, recipe.data, show)


def _base(recipe: Recipe, given: Loaded | None) -> str:
    """Digest what a run starts from: the network, its weights, the data."""
    plain = recipe.plain()
    network = {key: value for key, value in plain["network"].items() if key != "weights"}
    weights = ""
    if given is not None:
        weights = digest_of([given.model]) + hashlib.sha256(given.data.train.labels.numpy().tobytes()).hexdigest()
    elif recipe.network.weights is not None:
        with open(recipe.network.weights, "rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()
    return _digest(network, weights, plain["data"], recipe.deterministic)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _start(run: Run, base: str, trained: bool) -> tuple[State, Done]:
    """The state before the first step; its network is written down too, and evaluated if it was trained."""
    place = disk.Place(run.root / disk.START, base)
    loaded, network = run.loaded, run.recipe.network
    state = State(loaded.model, loaded.model, loaded.data, network, network)

    def begun() -> Done:
        if place.done is not None:
            return place.done
        top1 = evaluate(state.model, loaded.data.validation, loaded.data.normalisation).top1 if trained else None
        sizes = measure(state.model, state.example)
        results = {"name": "start", "top1": top1, "reference_top1": top1, "macs": sizes.macs, "params": sizes.params}
        known = {"facts": sorted(FROM_WEIGHTS) if trained else [], "sections": [], "seconds": 0.0}
        return write_state(run.root, place, state, state, {}, results | known)

    return state, from_rank_zero(run.fabric, begun)


def follow(run: Run, chain: Sequence[Step], state: State, start: Done, folder: Path, first: int) -> list[Done]:
    """Run steps one after the other in folders of `folder`, numbered from `first`; gives what each left.

    `state` and `start` are what came before. Between two steps the state is read from the disk, so that a run that was interrupted
    and one that was not are the same.
    """
    places, digest = [], start["digest"]
    for number, step in enumerate(chain, first):
        digest = _digest(digest, step.name, step.model_dump(mode="json", serialize_as_any=True))
        places.append(disk.Place(folder / f"{number}-{step.name}", digest))
    aside = from_rank_zero(run.fabric, lambda: disk.settle(folder, places))
    if aside:
        run.show.say(f"{', '.join(aside)}: other settings than now; put aside in {folder / disk.OLD}")
    known = from_rank_zero(run.fabric, lambda: [place.done for place in places])
    finished = next((index for index, done in enumerate(known) if done is None), len(known))
    results: list[Done] = [done for done in known[:finished] if done is not None]
    if finished:
        run.show.say(f"done before: {', '.join(place.folder.name for place in places[:finished])}")
        state = read_state(run.root, results[-1], run.loaded.data, run.given)
    if finished < len(chain):
        rehearse(chain[finished:], state, run.show)
    for step, place in list(zip(chain, places, strict=True))[finished:]:
        before = results[-1] if results else start
        results.append(_take(run, step, state, before, place))
        state = read_state(run.root, results[-1], run.loaded.data, run.given)
    return results


def _take(run: Run, step: Step, state: State, before: Done, place: disk.Place) -> Done:
    """Take one step, evaluate what it made, and write everything down."""
    if run.fabric.is_global_zero:
        write_text(place.folder / disk.STEP, json.dumps({"digest": place.digest, "step": step.name}) + "\n")
    facts = frozenset(before["facts"])
    context = Context(
        folder=place.folder, fabric=run.fabric, show=run.show, decide=run.decisions, shared=run.shared,
        facts=facts, level=before["reference_top1"], digest=place.digest, before=before["digest"],
    )  # fmt: skip
    run.show.say(f"[{place.folder.name}]")
    began = time.perf_counter()
    after, sections = step.run(state, context)
    seconds = time.perf_counter() - began + sum(context.resumed)
    data = run.loaded.data

    def top1_of(network: nn.Module) -> float:
        return evaluate(network, data.validation, data.normalisation, fabric=run.fabric).top1

    top1 = before["top1"] if after.model is state.model else top1_of(after.model)
    reference = before["reference_top1"]
    if after.reference is not state.reference:
        reference = top1 if after.reference is after.model else top1_of(after.reference)
    if top1 is not None:
        run.show.say(f"  {step.name}: validation top-1 {top1:.2f} %")

    def written() -> Done:
        disk.require(run.root)
        sizes = measure(after.model, after.example)
        results = {
            "name": step.name, "facts": sorted(step.after(facts)), "top1": top1, "reference_top1": reference, "seconds": seconds,
            "macs": sizes.macs, "params": sizes.params,
            "sections": [section.model_dump(mode="json") for section in sections],
        }  # fmt: skip
        return write_state(run.root, place, after, state, before, results)

    return from_rank_zero(run.fabric, written)
