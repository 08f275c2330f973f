"""Run a recipe: check the chain, load network and data, run the steps, measure, report."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from slimcnn.datasets import Dataset
from slimcnn.datasets.cache import fingerprint
from slimcnn.distillation.answers import digest_of
from slimcnn.errors import RecipeError
from slimcnn.manifest import MANIFEST, claim, write_manifest
from slimcnn.running import folder as disk
from slimcnn.running.chain import begin, digest, follow
from slimcnn.running.curve import run_curve
from slimcnn.running.finishing import Result, finish
from slimcnn.running.job import Job
from slimcnn.running.loading import Loaded, load_with_data, refuse_unnamed
from slimcnn.running.order import facts_at_start, facts_before
from slimcnn.running.recipe import Recipe, read_recipe
from slimcnn.running.scaling import with_published_scaling
from slimcnn.running.sharing import Sharing
from slimcnn.running.step import OTHER_CLASSES, Step
from slimcnn.show import SILENT, Show
from slimcnn.training.processes import from_rank_zero, launched, lost_ranks_named

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def run(
    recipe: Recipe | Path | str, *, show: Show = SILENT, fabric: Fabric | None = None, command: str = "",
    given: Loaded | None = None, trained: bool = True, sharing: Sharing | None = None, transfer: Step | None = None,
    on_epoch: Callable[[Mapping[str, float]], None] | None = None,
) -> Result:  # fmt: skip
    """Run a recipe in its folder, or resume it after an interruption.

    Every step has a digest of its settings, of all steps before it and of the input weights. If the folder of a step
    holds results with the same digest, the step is not run again. So an edited recipe keeps its unchanged steps.

    Args:
        recipe: a recipe, or the path of a recipe file.
        show: progress output.
        fabric: processes and devices; default: one process on the best device, or all processes of torchrun.
        command: the command that repeats the run, for the report.
        given: a network and data to use instead of those in the recipe.
        trained: whether the network in `given` is trained.
        sharing: steps, traces and scores in common with other runs.
        transfer: a step to put in front if the network's head is for other classes than the data's.
        on_epoch: called with the metrics of every epoch that this call trains, such as `{"epoch": 3, "2-train/loss":
            0.4, ...}`; see `Epoch.scalars`. With several processes, only the first calls it.

    Raises:
        SlimcnnError: any error the user can fix, in one line. An invalid order of steps is a `RecipeError`, raised
            before anything runs.
    """
    if not isinstance(recipe, Recipe):
        recipe = read_recipe(recipe)
    if given is None:
        refuse_unnamed(recipe.network)
        recipe = recipe.model_copy(update={"data": with_published_scaling(recipe.network, recipe.data)})
    known = recipe.network.weights is not None if given is None else trained
    check_order(recipe, known)
    fabric = launched(fabric)
    show = replace(show, log=on_epoch) if on_epoch else show
    show = show if fabric.is_global_zero else SILENT
    root = Path(recipe.out)
    with lost_ranks_named(), ExitStack() as held:
        from_rank_zero(fabric, lambda: held.enter_context(disk.locked(root)) and None)
        loaded = given or _load(recipe, show, fabric)
        if loaded.other_classes:
            recipe = _for_other_classes(recipe, known, loaded.other_classes, transfer)
        base = _base(recipe, loaded, given is not None)
        from_rank_zero(fabric, lambda: disk.begin(recipe, root, base, loaded.data.streamed))
        job = Job(
            recipe, root, loaded, fabric, show, command, loaded.model if given else None,
            shared={} if sharing is None else sharing.values, sharing=sharing,
        )  # fmt: skip
        state, start = begin(job, base, known)
        if recipe.curve:
            found = run_curve(job, state, start)
        else:
            found = finish(job, follow(job, recipe.steps, state, start, root, 1), start)
        from_rank_zero(fabric, lambda: _claim_files(root, loaded.data))
        return found


def _for_other_classes(recipe: Recipe, trained: bool, differ: str, transfer: Step | None) -> Recipe:
    """Return a recipe whose first step replaces the head; raise `RecipeError` if there is none."""
    if transfer is not None and OTHER_CLASSES not in recipe.steps[0].loses:
        recipe = recipe.model_copy(update={"steps": (transfer, *recipe.steps)})
    try:
        facts_before(recipe.steps, facts_at_start(trained, other_classes=True))
    except RecipeError as error:
        raise RecipeError(f"{error}; {differ}") from error
    return recipe


def check_order(recipe: Recipe, trained: bool) -> None:
    """Raise `RecipeError` if the order of the steps makes no sense for a network that is trained, or is not."""
    try:
        facts_before(recipe.steps, facts_at_start(trained))
    except RecipeError as error:
        hint = "" if trained else disk.trained_before(Path(recipe.out))
        raise RecipeError(f"{error}; {hint}" if hint else str(error)) from error


def _load(recipe: Recipe, show: Show, fabric: Fabric) -> Loaded:
    data = disk.read_as_before(Path(recipe.out), recipe.data)
    if fabric.world_size > 1:
        # One process downloads; the others read the cache, and stream if it does.
        streamed = from_rank_zero(
            fabric, lambda: load_with_data(recipe.network, data, other_classes=True).data.streamed
        )
        data = data.model_copy(update={"stream": streamed})
    return load_with_data(recipe.network, data, show, other_classes=True)


def _claim_files(root: Path, data: Dataset) -> None:
    """Write the manifest of a finished run; if it has one already, only the digest of the recipe is updated."""
    if (root / MANIFEST).exists():
        claim(root / disk.RECIPE)
        return
    images = {"dataset": data.name, "part": "test", "n": len(data.test), "sha256": fingerprint((data.test.to("cpu"),))}
    write_manifest(root, images)


def _base(recipe: Recipe, loaded: Loaded, given: bool) -> str:
    """Return a digest of the inputs of a run: network, weights and data; `given` ones are not in the recipe."""
    plain = recipe.plain()
    network = {key: value for key, value in plain["network"].items() if key not in ("weights", "verify")}
    weights = ""
    if given:
        weights = digest_of([loaded.model]) + hashlib.sha256(loaded.data.train.labels.numpy().tobytes()).hexdigest()
    elif recipe.network.published:
        weights = digest_of([loaded.model])
    elif recipe.network.weights is not None:
        with open(recipe.network.weights, "rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()
    # The number of workers changes the speed only.
    data = {key: value for key, value in plain["data"].items() if key != "workers" and value is not False}
    return digest(network, weights, data, recipe.deterministic)
