"""What a user may want to do after a run, from its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from slimcnn.reporting.formatting import size
from slimcnn.reporting.schema import Numbers
from slimcnn.running.folder import COMPRESSED
from slimcnn.running.recipe import Recipe
from slimcnn.running.step import Step

SMALL_LOSS, LARGE_LOSS = 0.5, 3.0
"""Points of top-1."""

TARGETS = ("macs", "params", "size", "memory", "latency", "pruning_ratio")
"""Settings of a prune step that say how small."""


def next_steps(recipe: Recipe, before: Numbers, after: Numbers, folder: Path) -> Iterator[str]:
    """Say what to do next, one sentence each."""
    names = [step.name for step in recipe.steps]
    lost = before.top1 - after.top1
    last_cut = max((index for index, name in enumerate(names) if name == "prune"), default=None)
    asked = _asked(recipe.steps[last_cut]) if last_cut is not None else "macs"
    option = f"--{asked.replace('_', '-')}"
    trained = last_cut is not None and bool({"train", "distill"} & set(names[last_cut:]))
    if last_cut is not None and lost > SMALL_LOSS:
        if not trained:
            yield (
                "Train with the original as teacher to recover most of the lost accuracy: the same command with "
                "--epochs 10. Steps that did not change are not run again."
            )
        elif lost <= LARGE_LOSS:
            yield "Train longer (--epochs) to recover more."
        if lost > LARGE_LOSS:
            larger = "larger" if asked != "pruning_ratio" else "smaller"
            yield f"Keep more of the network (a {larger} {option}): this cut is too deep for this budget."
    elif last_cut is not None:
        smaller = "smaller" if asked != "pruning_ratio" else "larger"
        yield (
            f"There is room for a deeper cut: try a {smaller} {option}, or --curve 0.8,0.6,0.4 to see several sizes at "
            "once."
        )
    limit = max((getattr(step, "size", None) or 0 for step in recipe.steps), default=0)
    if limit and after.bytes > limit:
        yield (
            f"The file has {size(after.bytes)}, more than the {size(limit)} that were asked for: steps behind the cut "
            f"added to it. Ask for {size(2 * limit - after.bytes)}."
        )
    yield f'Use it: slimcnn.load("{folder / COMPRESSED}").'


def _asked(cut: Step) -> str:
    """Name the setting that says how much a prune step leaves; of several, the first."""
    return next((name for name in TARGETS if getattr(cut, name, None) is not None), "macs")
