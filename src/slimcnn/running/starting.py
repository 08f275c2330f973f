"""Run a recipe: check the chain, load network and data, run the steps, measure, report."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
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
from slimcnn.running.job import FROM_WEIGHTS, Job
from slimcnn.running.loading import Loaded, load_with_data, refuse_unnamed
from slimcnn.running.order import facts_before
from slimcnn.running.recipe import Recipe, read_recipe
from slimcnn.running.scaling import with_published_scaling
from slimcnn.running.sharing import Sharing
from slimcnn.show import SILENT, Show
from slimcnn.training.processes import from_rank_zero, launched, lost_ranks_named

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def run(
    recipe: Recipe | Path | str, *, show: Show = SILENT, fabric: Fabric | None = None, command: str = "",
    given: Loaded | None = None, trained: bool = True, sharing: Sharing | None = None,
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
    show = show if fabric.is_global_zero else SILENT
    root = Path(recipe.out)
    with lost_ranks_named(), ExitStack() as held:
        from_rank_zero(fabric, lambda: held.enter_context(disk.locked(root)) and None)
        loaded = given or _load(recipe, show, fabric)
        base = _base(recipe, given)
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


def check_order(recipe: Recipe, trained: bool) -> None:
    """Raise `RecipeError` if the order of the steps makes no sense for a network that is trained, or is not."""
    try:
        facts_before(recipe.steps, FROM_WEIGHTS if trained else frozenset())
    except RecipeError as error:
        hint = "" if trained else disk.trained_before(Path(recipe.out))
        raise RecipeError(f"{error}; {hint}" if hint else str(error)) from error


def _load(recipe: Recipe, show: Show, fabric: Fabric) -> Loaded:
    data = disk.read_as_before(Path(recipe.out), recipe.data)
    if fabric.world_size > 1:
        # One process downloads; the others read the cache, and stream if it does.
        streamed = from_rank_zero(fabric, lambda: load_with_data(recipe.network, data).data.streamed)
        data = data.model_copy(update={"stream": streamed})
    return load_with_data(recipe.network, data, show)


def _claim_files(root: Path, data: Dataset) -> None:
    """Write the manifest of a finished run; if it has one already, only the digest of the recipe is updated."""
    if (root / MANIFEST).exists():
        claim(root / disk.RECIPE)
        return
    images = {"dataset": data.name, "part": "test", "n": len(data.test), "sha256": fingerprint((data.test.to("cpu"),))}
    write_manifest(root, images)


def _base(recipe: Recipe, given: Loaded | None) -> str:
    """Return a digest of the inputs of a run: network, weights and data."""
    plain = recipe.plain()
    network = {key: value for key, value in plain["network"].items() if key not in ("weights", "verify")}
    weights = ""
    if given is not None:
        weights = digest_of([given.model]) + hashlib.sha256(given.data.train.labels.numpy().tobytes()).hexdigest()
    elif recipe.network.weights is not None:
        with open(recipe.network.weights, "rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()
    # The number of workers changes the speed only.
    data = {key: value for key, value in plain["data"].items() if key != "workers" and value is not False}
    return digest(network, weights, data, recipe.deterministic)
