"""Run several sizes: the steps before the first prune run once, the others once per size."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from slimcnn.manifest import withdraw
from slimcnn.measuring import environment, latency
from slimcnn.reporting import CurveReport, write_report
from slimcnn.reporting.schema import CurvePoint
from slimcnn.running import folder as disk
from slimcnn.running.chain import follow
from slimcnn.running.finishing import Result, name_of, report_of, write_results
from slimcnn.running.recipe import Recipe
from slimcnn.running.saving import Done, read_state
from slimcnn.running.step import State
from slimcnn.training.processes import from_rank_zero

if TYPE_CHECKING:
    from slimcnn.running.job import Job

REFERENCE = "original"

OTHER_TARGETS = ("params", "size", "memory", "pruning_ratio")
"""Target settings of a prune step, replaced by the sizes of a curve."""


def run_curve(job: Job, state: State, start: Done) -> Result:
    """Run the chain for every size of the recipe's curve, time all networks in turns, and write one report.

    Trace and scores are computed once for all sizes. Each size has a folder with a separate report.
    """
    recipe = job.recipe
    first = [step.name for step in recipe.steps].index("prune")
    common = follow(job, recipe.steps[:first], state, start, job.root, 1) if first else []
    fork = common[-1] if common else start
    middle = read_state(job.root, fork, job.loaded.data, job.given) if common else state
    ends: dict[str, list[Done]] = {}
    for size in sorted(set(recipe.curve), reverse=True):
        job.show.say(f"--- at most {size:g} of the MACs ---")
        one = at_size(recipe, size)
        folder = job.root / f"macs-{size:g}"
        ends[f"{size:g}"] = follow(job, one.steps[first:], middle, fork, folder, first + 1)
    states = {label: read_state(job.root, done[-1], job.loaded.data, job.given) for label, done in ends.items()}
    report = from_rank_zero(job.fabric, lambda: _reported(job, start, common, ends, states))
    smallest = min(ends, key=float)
    return Result(states[smallest].model, report, job.root)


def at_size(recipe: Recipe, size: float) -> Recipe:
    """Return the recipe of one size: the first prune step keeps that fraction of the MACs."""
    chain = list(recipe.steps)
    place = [step.name for step in chain].index("prune")
    chain[place] = chain[place].model_copy(update={"macs": size, **dict.fromkeys(OTHER_TARGETS)})
    return recipe.model_copy(
        update={"steps": tuple(chain), "curve": (), "out": str(Path(recipe.out) / f"macs-{size:g}")}
    )


def _reported(
    job: Job, start: Done, common: list[Done], ends: dict[str, list[Done]], states: dict[str, State]
) -> CurveReport:
    digests = [done[-1]["digest"] for done in ends.values()]
    if isinstance(known := report_of(job, digests), CurveReport):
        return known
    disk.require(job.root)
    withdraw(job.root)
    job.show.say(f"measuring {len(ends) + 1} networks and evaluating them on the test images")
    some = next(iter(states.values()))
    networks = {REFERENCE: some.reference} | {label: state.model for label, state in states.items()}
    times = latency(networks, some.example, seconds=job.recipe.latency_seconds)
    points, reports = [], []
    for label, done in ends.items():
        recipe = at_size(job.recipe, float(label))
        report = write_results(
            job, recipe, states[label], [start, *common, *done], job.root / f"macs-{label}",
            times[REFERENCE], times[label],
        )  # fmt: skip
        reports.append(report)
        points.append(
            CurvePoint(
                label=label, macs_target=float(label), report=f"macs-{label}/report.html", after=report.after,
                verdict=report.verdict, steps=report.steps, warnings=report.warnings, ratio=report.timing.ratio,
            )
        )  # fmt: skip
    first = reports[0]
    curve = CurveReport(
        title=f"{name_of(some)} on {some.data.name}",
        command=job.command or f"slimcnn run {shlex.quote(str(job.root / disk.RECIPE))}",
        network=name_of(some), dataset=some.data.name, metric=first.metric, reference=first.before,
        points=tuple(points), timing=first.timing.conditions, images=first.images, environment=environment(),
        recipe=job.recipe.to_toml(),
        seconds=sum(d["seconds"] for d in [start, *common, *(d for one in ends.values() for d in one)]),
    )  # fmt: skip
    write_report(curve, job.root)
    disk.remember(job.root, finished=digests)
    return curve
