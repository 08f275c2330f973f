"""Suggest next steps from the results of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from slimcnn.reporting.comparison import TOP1
from slimcnn.reporting.formatting import size
from slimcnn.reporting.outcome import MetricName
from slimcnn.reporting.schema import Numbers
from slimcnn.running.folder import COMPRESSED
from slimcnn.running.recipe import Recipe
from slimcnn.running.step import Step

SMALL_LOSS, LARGE_LOSS = 0.5, 3.0
"""Percentage points of top-1; percent of a metric that is no percentage."""

TARGETS = ("macs", "params", "size", "memory", "latency", "pruning_ratio")
"""Target settings of a prune step."""


def next_steps(
    recipe: Recipe, before: Numbers, after: Numbers, folder: Path, metric: MetricName = TOP1
) -> Iterator[str]:
    """Yield suggestions, a sentence or two each."""
    names = [step.name for step in recipe.steps]
    # Counted in what `worst_allowed` allows: points, or percent of what is no percentage.
    lost = -metric.gain(before.score, after.score) / (metric.worst_allowed(before.score) or 1.0)
    last_cut = max((index for index, name in enumerate(names) if name == "prune"), default=None)
    target = _target_of(recipe.steps[last_cut]) if last_cut is not None else "macs"
    option = f"--{target.replace('_', '-')}"
    trained = last_cut is not None and bool({"train", "distill"} & set(names[last_cut:]))
    if last_cut is not None and lost > SMALL_LOSS:
        if not trained:
            yield (
                "To recover most of the lost accuracy, train with the original as teacher: run the same command with "
                "--epochs 10. Unchanged steps are not run again."
            )
        elif lost <= LARGE_LOSS:
            yield "Train for more epochs (--epochs) to recover more accuracy."
        if lost > LARGE_LOSS:
            larger = "larger" if target != "pruning_ratio" else "smaller"
            yield f"Keep more of the network (a {larger} {option}): this much pruning costs too much accuracy."
    elif last_cut is not None:
        smaller = "smaller" if target != "pruning_ratio" else "larger"
        yield (
            f"The network can probably be pruned further: try a {smaller} {option}, or --curve 0.8,0.6,0.4 for several "
            "sizes in one run."
        )
    limit = max((getattr(step, "size", None) or 0 for step in recipe.steps), default=0)
    if limit and after.bytes > limit:
        yield (
            f"The file is {size(after.bytes)}, larger than the target of {size(limit)}, because steps after pruning "
            f"enlarged it. Use a target of {size(2 * limit - after.bytes)}."
        )
    yield f'Load the network: slimcnn.load("{folder / COMPRESSED}").'


def _target_of(cut: Step) -> str:
    """Return the target setting of a prune step; the first of several."""
    return next((name for name in TARGETS if getattr(cut, name, None) is not None), "macs")
