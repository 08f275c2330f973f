"""Dry run: the plan of a recipe's prune step, without training or cutting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from slimcnn.errors import RecipeError
from slimcnn.graph import ChannelGraph
from slimcnn.pruning import Plan
from slimcnn.running.loading import load_with_data
from slimcnn.running.recipe import Recipe
from slimcnn.running.step import OTHER_CLASSES, Context, State
from slimcnn.show import Show
from slimcnn.steps.prune import Prune
from slimcnn.training.processes import launched


def planned(recipe: Recipe, show: Show) -> tuple[ChannelGraph, Plan]:
    """Return the graph and the plan of a recipe's first prune step for the initial network; nothing is trained or cut.

    Raises:
        RecipeError: there is no prune step, or its plan depends on sparsity training or a search.
    """
    place = next((n for n, step in enumerate(recipe.steps) if isinstance(step, Prune)), None)
    if place is None:
        raise RecipeError("--dry-run shows the plan of a prune step, and there is none")
    step = recipe.steps[place]
    assert isinstance(step, Prune)
    if step.search is not None or any(one.name == "sparsify" for one in recipe.steps[:place]):
        raise RecipeError("--dry-run cannot show a plan that depends on sparsity training or a search: leave them out")
    fitting = [one for one in recipe.steps[:place] if OTHER_CLASSES in one.loses]
    loaded = load_with_data(recipe.network, recipe.data, show, other_classes=bool(fitting))
    state = State(loaded.model, loaded.model, loaded.data, recipe.network, recipe.network)
    for one in fitting:
        state = replace(state, model=one.rehearse(state))
    with TemporaryDirectory() as nowhere:
        _, graph, plan = step.propose(state, Context(Path(nowhere), launched(None), show))
    return graph, plan
