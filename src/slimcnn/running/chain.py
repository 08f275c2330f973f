"""Run steps in order and save each result; finished steps with unchanged settings are not run again."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimcnn.digests import json_digest
from slimcnn.manifest import withdraw
from slimcnn.measuring import measure
from slimcnn.running import folder as disk
from slimcnn.running.job import Job
from slimcnn.running.order import facts_at_start
from slimcnn.running.rehearsal import rehearse
from slimcnn.running.saving import Done, read_state, write_state
from slimcnn.running.step import Context, State, Step
from slimcnn.tasks import Metric, task_of
from slimcnn.training import judge
from slimcnn.training.keeping import TOP1
from slimcnn.training.processes import from_rank_zero


def digest(*parts: Any) -> str:
    """Return the SHA-256 of plain data."""
    return json_digest(parts)


def begin(job: Job, base: str, trained: bool) -> tuple[State, Done]:
    """Return the state before the first step; save its network, and evaluate it if it is trained."""
    place = disk.StepPlace(job.root / disk.START, base)
    loaded, network = job.loaded, job.recipe.network
    state = State(loaded.model, loaded.model, loaded.data, network, network)
    facts = facts_at_start(trained, bool(loaded.other_classes))

    def begun() -> Done:
        if place.done is not None:
            return place.done
        fits = trained and not loaded.other_classes
        found = judge(state.model, loaded.data.validation, loaded.data).score if fits else None
        sizes = measure(state.model, state.example)
        results = {"name": "start", "metric": found, "reference_metric": found}
        results |= {"macs": sizes.macs, "params": sizes.params}
        known = {"facts": sorted(facts), "sections": [], "seconds": 0.0}
        return write_state(job.root, place, state, state, {}, results | known)

    return state, from_rank_zero(job.fabric, begun)


def follow(job: Job, chain: Sequence[Step], state: State, start: Done, folder: Path, first: int) -> list[Done]:
    """Run steps in order, in subfolders of `folder` numbered from `first`; return the done.json content of each.

    `state` and `start` are the state before the first step and its done.json. After each step the state is loaded from
    disk, so interrupted and uninterrupted runs give the same results.
    """
    places, known_by = [], start["digest"]
    for number, step in enumerate(chain, first):
        known_by = digest(known_by, step.name, step.model_dump(mode="json", serialize_as_any=True))
        places.append(disk.StepPlace(folder / f"{number}-{step.name}", known_by))
    aside = from_rank_zero(job.fabric, lambda: disk.settle(folder, places))
    if aside:
        job.show.say(f"{', '.join(aside)}: settings have changed; moved to {folder / disk.OLD}")
    known = from_rank_zero(job.fabric, lambda: [place.done for place in places])
    finished = next((index for index, done in enumerate(known) if done is None), len(known))
    results: list[Done] = [done for done in known[:finished] if done is not None]
    if finished:
        job.show.say(f"already done: {', '.join(place.folder.name for place in places[:finished])}")
        state = read_state(job.root, results[-1], job.loaded.data, job.given)
    if finished < len(chain):
        rehearse(chain[finished:], state, job.show)
    for step, place in list(zip(chain, places, strict=True))[finished:]:
        before = results[-1] if results else start
        with ExitStack() as held:
            results.append(_taken(job, place, held) or _run_step(job, step, state, before, place))
        state = read_state(job.root, results[-1], job.loaded.data, job.given)
    return results


def _taken(job: Job, place: disk.StepPlace, held: ExitStack) -> Done | None:
    """Hold a step that other runs may have in common; return its results if one of them has finished it."""
    sharing = job.sharing
    if sharing is None:
        return None

    def take() -> Done | None:
        held.enter_context(sharing.steps.hold(place, job.show.say))
        return place.done

    return from_rank_zero(job.fabric, take)


def _run_step(job: Job, step: Step, state: State, before: Done, place: disk.StepPlace) -> Done:
    """Run one step, evaluate its network and save the results."""
    if job.fabric.is_global_zero:
        withdraw(job.root)
        disk.write_sealed(place.folder / disk.STEP, {"digest": place.digest, "step": step.name})
    facts = frozenset(before["facts"])
    context = Context(
        folder=place.folder, fabric=job.fabric, show=job.show, decide=job.decide,
        timed=not job.recipe.deterministic, shared=job.shared,
        facts=facts, level=before["reference_metric"], digest=place.digest, before=before["digest"],
    )  # fmt: skip
    job.show.say(f"[{place.folder.name}]")
    began = time.perf_counter()
    devices = [job.fabric.device] if job.fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        # Random numbers depend only on the step's digest, not on what ran earlier in the process.
        torch.manual_seed(int(place.digest[:15], 16))
        after, sections = step.run(state, context)
    seconds = time.perf_counter() - began + sum(context.resumed)
    data = job.loaded.data

    def judged(network: nn.Module) -> float:
        return judge(network, data.validation, data, fabric=job.fabric).score

    found = before["metric"] if after.model is state.model else judged(after.model)
    reference = before["reference_metric"]
    if after.reference is not state.reference:
        reference = found if after.reference is after.model else judged(after.reference)
    metric = task_of(data).metric
    if found is not None:
        job.show.say(f"  {step.name}: validation {metric.name} {metric.written(found)}")
    warning = _warning(step, before["metric"], found, len(data.validation), metric)
    if warning:
        job.show.warn(warning)

    def written() -> Done:
        disk.require(job.root)
        sizes = measure(after.model, after.example)
        results = {
            "name": step.name, "facts": sorted(step.after(facts)), "metric": found, "reference_metric": reference,
            "warning": warning, "seconds": seconds, "macs": sizes.macs, "params": sizes.params,
            "sections": [section.model_dump(mode="json") for section in sections],
        }  # fmt: skip
        return write_state(job.root, place, after, state, before, results)

    return from_rank_zero(job.fabric, written)


WORSE = 0.5
"""Points of the validation metric that a step may lose without a warning; or two standard errors, if larger."""

WORSE_SHARE = 0.05
"""Share of its value that a metric may lose that is no percentage."""


def _warning(step: Step, before: float | None, after: float | None, images: int, metric: Metric = TOP1) -> str:
    """Return a warning if a step that should not lower accuracy did; else an empty string.

    >>> from slimcnn.running.step import steps
    >>> _warning(steps["recalibrate"].value(), 91.0, 88.5, 5000)
    'recalibrate lowered validation top-1: 91.00 -> 88.50 %; leave recalibrate out, or give it more images'
    >>> _warning(steps["prune"].value(), 91.0, 60.0, 5000), _warning(steps["recalibrate"].value(), 91.0, 88.5, 100)
    ('', '')
    >>> _warning(steps["tune"].value(), 98.9, 96.7, 180)
    ''
    """
    if step.costs or before is None or after is None:
        return ""
    # Of the two, the larger: a start near 100 % looks surer than it is.
    allowed = WORSE_SHARE * abs(before)
    if metric.unit == "%":
        allowed = max(WORSE, 2 * max(math.sqrt(x * (100 - x) / images) for x in (before, after)))
    if metric.gain(before, after) >= -allowed:
        return ""
    moved = "lowered" if metric.higher_is_better else "raised"
    values = f"{metric.number(before)} -> {metric.written(after)}"
    return f"{step.name} {moved} validation {metric.name}: {values}; {step.remedy}"
