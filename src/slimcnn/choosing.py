"""What goes: a plan by a target, by a search, or by the user's hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from slimcnn.datasets import batches
from slimcnn.graph import ChannelGraph, trace
from slimcnn.layers.relating import relating_of
from slimcnn.pruning import Plan, allocate, score, sensitivity
from slimcnn.recipes import Pruning, Recipe
from slimcnn.recovery import fold_constants, least_squares, recalibrate
from slimcnn.rewriting import fold_relations, scatter
from slimcnn.runs import POINTS, RunFolder
from slimcnn.searching import Board, Found, Search, Trying, join, search
from slimcnn.stages import training_images
from slimcnn.start import Show, Start
from slimcnn.training.processes import from_rank_zero

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def scattered(pruning: Pruning, start: Start) -> Start:
    """Let layers put channels into streams where the target needs it; the copy computes the same."""
    if pruning.target.residual != "scatter":
        return start
    return replace(start, model=scatter(start.model, start.example))


def make_plan(pruning: Pruning, start: Start, show: Show) -> tuple[ChannelGraph, Plan]:
    """Trace, score and allocate; or read the plan that the user gives."""
    show.say("tracing the network")
    graph = trace(start.model, start.example, pruning.inexact)
    if pruning.plan is not None:
        return graph, Plan.load(Path(pruning.plan), graph)
    scores = score(start.model, graph, pruning.criterion, data=_batches(pruning, start))
    if pruning.target.scope == "sensitivity":
        show.say("measuring how much the output suffers when each group loses channels")

        def progress(done: int, total: int) -> None:
            show.progress("measuring sensitivity", done, total)

        scores = sensitivity(start.model, graph, scores, (x for x, _ in _batches(pruning, start)), progress)
    return graph, allocate(graph, scores, pruning.target)


def _batches(pruning: Pruning, start: Start) -> Iterator[tuple[Tensor, Tensor]]:
    feed = batches(
        start.dataset.train, 128, normalisation=start.dataset.normalisation,
        augmentation=start.dataset.augmentation, seed=0,
    )  # fmt: skip
    return islice(feed, pruning.batches)


def search_plan(
    recipe: Recipe, settings: Search, start: Start, folder: RunFolder, show: Show, fabric: Fabric
) -> tuple[ChannelGraph, Plan]:
    """Look for the smallest network within the drop; other processes may `help_search`."""
    show.say("tracing the network")
    trying = _trying(recipe, start)

    def progress(done: int, total: int) -> None:
        show.progress("trying points", done, total)

    def found() -> Found:
        board = Board.open(_storage(settings, folder.path), _name(recipe), settings)
        return search(trying, settings, board, progress)

    show.say(f"searching: at most {settings.drop:g} points of validation top-1 may go")
    result = from_rank_zero(fabric, found)
    best = result.best
    show.say(
        f"{len(result.outcomes)} points tried; the smallest network within the drop keeps {best.macs or 0:.3f} of the "
        f"MACs, {best.top1:.2f} % of {result.base:.2f} % ({', '.join(f'{k} {v}' for k, v in best.point.items())})"
    )
    tried = [vars(one) for one in result.outcomes]
    folder.remember(search={"tried": tried, "best": vars(best), "base": result.base})
    return trying.graph, trying.plan(best.point)


def begin_search(recipe: Recipe, settings: Search, folder: Path) -> None:
    """Open the storage of a search, so that a mistake shows now and not after hours of training."""
    Board.open(_storage(settings, folder), _name(recipe), settings)


def help_search(recipe: Recipe, settings: Search, start: Start, folder: Path, show: Show) -> int:
    """Try points of another process's search until it is finished; how many were tried here."""
    board = Board.open(_storage(settings, folder), _name(recipe), settings, join=True)

    def progress(done: int, total: int) -> None:
        show.progress("trying points", done, total)

    return join(_trying(recipe, start), settings, board, progress=progress)


def without_relations(start: Start, graph: ChannelGraph, plan: Plan) -> tuple[Start, ChannelGraph, Plan]:
    """Fold relations of mode "mean" away, once they have said what goes: the same channels of the folded network."""
    if "mean" not in relating_of(start.model).values():
        return start, graph, plan
    folded = replace(start, model=fold_relations(start.model))
    traced = trace(folded.model, start.example, any(group.inexact for group in graph.groups))
    return folded, traced, replace(plan, network=traced.fingerprint)


def _trying(recipe: Recipe, start: Start) -> Trying:
    pruning = recipe.prune
    assert pruning is not None
    graph = trace(start.model, start.example, pruning.inexact)
    return Trying(
        start.model, graph, start.dataset.validation, start.dataset.normalisation, pruning.criterion, pruning.target,
        data=lambda: _batches(pruning, start), recover=_recovery(recipe, start, graph),
    )  # fmt: skip


def _recovery(recipe: Recipe, start: Start, graph: ChannelGraph) -> Callable[[nn.Module, Plan], None] | None:
    """Win accuracy back at every point, by those steps of the recipe that need no training."""
    steps = [step for step in recipe.recover.steps if step in ("constants", "bn", "least_squares")]
    if not steps or (recipe.recover.trains and steps == ["bn"]):
        return None

    def recover(small: nn.Module, plan: Plan) -> None:
        for step in steps:
            if step == "constants":
                fold_constants(small, start.model, graph, plan)
            elif step == "bn":
                recalibrate(small, training_images(recipe, start))
            else:
                least_squares(small, start.model, graph, plan, training_images(recipe, start))

    return recover


def _storage(settings: Search, folder: Path) -> str | Path:
    return settings.storage or folder / POINTS


def _name(recipe: Recipe) -> str:
    """Name a search by everything that its outcome depends on."""
    known = recipe.model_copy(update={"out": ""}).to_toml()
    return f"slimcnn-{hashlib.sha256(known.encode()).hexdigest()[:16]}"
