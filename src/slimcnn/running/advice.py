"""What a user may want to do after a run, from its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from slimcnn.reporting.schema import Numbers
from slimcnn.running.folder import COMPRESSED
from slimcnn.running.recipe import Recipe

SMALL_LOSS, LARGE_LOSS = 0.5, 3.0
"""Points of top-1."""


def next_steps(recipe: Recipe, before: Numbers, after: Numbers, folder: Path) -> Iterator[str]:
    """Say what to do next, one sentence each."""
    names = [step.name for step in recipe.steps]
    lost = before.top1 - after.top1
    last_cut = max((index for index, name in enumerate(names) if name == "prune"), default=None)
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
            yield "Keep more of the MACs (a larger --macs): this cut is too deep for this budget."
    elif last_cut is not None:
        yield (
            "There is room for a deeper cut: try a smaller --macs, or --curve 0.8,0.6,0.4 to see several sizes at once."
        )
    yield f'Use it: slimcnn.load("{folder / COMPRESSED}").'
