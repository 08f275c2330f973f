"""Check the order of steps before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from slimcnn.errors import RecipeError
from slimcnn.running.step import OTHER_CLASSES, Facts, Step

HEAD = "the network's head is for other classes: put train in front, which replaces it (--pretrain N)"


def facts_at_start(trained: bool, other_classes: bool = False) -> Facts:
    """Return the facts about the network of a run before its first step.

    >>> sorted(facts_at_start(True)), sorted(facts_at_start(True, other_classes=True))
    (['reference', 'trained'], ['other_classes', 'trained'])
    """
    facts = {"trained", "reference"} if trained else set()
    # Nothing can be compared with a network whose outputs are other classes.
    return frozenset(facts - {"reference"} | {OTHER_CLASSES} if other_classes else facts)


def facts_before(chain: Sequence[Step], facts: Facts) -> list[Facts]:
    """Return the facts before each step of a chain, and those at the end.

    Raises:
        RecipeError: a required fact of a step is missing, or a refused one holds; the message says what to do.

    >>> from slimcnn.running.step import steps
    >>> prune, refit = steps["prune"].value(), steps["least_squares"].value()
    >>> sorted(facts_before([prune, refit], frozenset({"trained", "reference"}))[1])
    ['constants', 'cut', 'origin', 'reference', 'trained']
    >>> facts_before([refit, prune], frozenset({"trained"}))
    Traceback (most recent call last):
    slimcnn.errors.RecipeError: step 1, least_squares: ...
    """
    found = [facts]
    for number, step in enumerate(chain, 1):
        place = f"step {number}, {step.name}"
        if OTHER_CLASSES in facts and OTHER_CLASSES not in step.loses:
            raise RecipeError(f"{place}: {HEAD}")
        for fact, why in step.needed().items():
            if fact not in facts:
                raise RecipeError(f"{place}: {why}")
        for fact, why in step.refused().items():
            if fact in facts:
                raise RecipeError(f"{place}: {why}")
        facts = step.after(facts)
        found.append(facts)
    return found
