"""The search of a prune step: points are evaluated by this process and by others that join."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from slimcnn.errors import RecipeError, SearchError
from slimcnn.graph import ChannelGraph, trace
from slimcnn.pruning import Plan
from slimcnn.running import folder as disk
from slimcnn.running.recipe import read_recipe
from slimcnn.running.saving import read_state
from slimcnn.running.step import Context, Origin, State, steps
from slimcnn.searching import Evaluator, Found, Search, StudyStorage, join, search
from slimcnn.show import SILENT, Show
from slimcnn.training.processes import from_rank_zero, launched

if TYPE_CHECKING:
    from slimcnn.steps.prune import Prune

POINTS = "search.log"


def searched(settings: Prune, asked: Search, state: State, graph: ChannelGraph, at: Context) -> tuple[Found, Plan]:
    """Search for the smallest network within the accuracy drop; other processes can join by `help_search`."""
    metric = state.task.metric
    unit, moves = "points" if metric.unit == "%" else metric.unit, "drop" if metric.higher_is_better else "rise"
    at.show.say(f"  searching: validation {metric.name} may {moves} by {asked.max_drop:g} {unit}".rstrip())
    evaluator = _evaluator(settings, asked, state, graph, at)

    def found() -> Found:
        storage = StudyStorage.open(asked.storage or at.folder / POINTS, _study(at.digest), asked)
        return search(evaluator, asked, storage, at.show.counting("evaluating points"))

    result = from_rank_zero(at.fabric, found)
    best = result.best
    reached = metric.written(best.metric or 0)
    said = ", ".join(f"{name} {value}" for name, value in best.point.items())
    at.show.say(
        f"  {len(result.outcomes)} points evaluated; the smallest network within the drop keeps "
        f"{best.macs or 0:.3f} of the MACs and reaches {reached} of {metric.written(result.base)} ({said})"
    )
    return result, evaluator.plan(best.point)


def check_storage(asked: Search) -> None:
    """Open the storage of a search, so that a wrong URL fails before hours of training."""
    if asked.storage is not None:
        StudyStorage.open(asked.storage, "slimcnn-check", asked)


def help_search(root: Path, show: Show = SILENT) -> int:
    """Evaluate points of another process's search in a run folder until it ends; return the number evaluated here.

    Raises:
        SearchError: the run in the folder has no search, or its search has not begun yet.
    """
    from slimcnn.running.loading import load_with_data

    recipe = read_recipe(root / disk.RECIPE)
    number = next((n for n, step in enumerate(recipe.steps, 1) if getattr(step, "search", None) is not None), None)
    if number is None:
        raise SearchError(f"the run in {root} has no search: start one with slimcnn compress --max-drop")
    step = recipe.steps[number - 1]
    before = root / disk.START if number == 1 else root / f"{number - 1}-{recipe.steps[number - 2].name}"
    folder = root / f"{number}-{step.name}"
    if not (before / disk.DONE).exists() or not (folder / disk.STEP).exists():
        raise SearchError(f"the run in {root} has not begun its search yet: join it later")
    loaded = load_with_data(recipe.network, disk.read_as_before(root, recipe.data), show, other_classes=True)
    state = read_state(root, disk.read_done(before / disk.DONE), loaded.data)
    at = Context(folder, launched(None), show, digest=disk.read_sealed(folder / disk.STEP)["digest"])
    return _help(step, state, at)  # type: ignore[arg-type]


def _help(step: Prune, state: State, at: Context) -> int:
    asked = step.search
    assert asked is not None
    whole = step.whole(state)
    graph = trace(whole, state.example, step.inexact)
    storage = StudyStorage.open(asked.storage or at.folder / POINTS, _study(at.digest), asked, join=True)
    evaluator = _evaluator(step, asked, replace(state, model=whole), graph, at)
    return join(evaluator, asked, storage, progress=at.show.counting("evaluating points"))


def _study(digest: str) -> str:
    """Return the name of a search: a digest of everything that its result depends on."""
    return f"slimcnn-{digest[:16]}"


def _evaluator(settings: Prune, asked: Search, state: State, graph: ChannelGraph, at: Context) -> Evaluator:
    data = state.data
    criterion, known = settings.criterion, {}
    if criterion is None or not asked.options:  # otherwise each point has a criterion of its own
        scores = settings.scores(state.model, graph, state, at)
        criterion = criterion or scores.criterion
        known = {criterion: scores}
    return Evaluator(
        state.model, graph, data.validation, data.normalization,
        criterion, settings.target,
        data=lambda: settings.images(state), recover=_recovery(asked, state, graph, at), data_of=data,
        scores=known, choose=partial(settings.choose, state.model),
    )  # fmt: skip


def _recovery(
    asked: Search, state: State, graph: ChannelGraph, at: Context
) -> Callable[[nn.Module, Plan], None] | None:
    """Return a function that applies the recovery steps to a pruned network; they must not train."""
    chain = [steps[name].value() for name in asked.recover]
    for step in chain:
        if step.trains:
            raise RecipeError(
                f"search.recover = {step.name}: a search evaluates many networks; choose steps that do not train"
            )
    if not chain:
        return None
    quiet = replace(at, show=SILENT)

    def recover(small: nn.Module, plan: Plan) -> None:
        tried = replace(state, model=small, origin=Origin(state.model, graph, plan))
        for step in chain:
            tried, _ = step.run(tried, quiet)
        small.load_state_dict(tried.model.state_dict())

    return recover
