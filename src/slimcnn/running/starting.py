"""A run, from recipe to report: check the chain, load, take one step after the other, measure."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from slimcnn.datasets import Dataset
from slimcnn.datasets.cache import fingerprint
from slimcnn.distillation.answers import digest_of
from slimcnn.manifest import MANIFEST, claim, write_manifest
from slimcnn.running import folder as disk
from slimcnn.running.chain import begin, digest, follow
from slimcnn.running.curve import run_curve
from slimcnn.running.finishing import Result, finish
from slimcnn.running.job import FROM_WEIGHTS, Job
from slimcnn.running.loading import Loaded, load_with_data, refuse_unnamed
from slimcnn.running.order import facts_before
from slimcnn.running.recipe import Recipe, read_recipe
from slimcnn.show import SILENT, Show
from slimcnn.training.processes import from_rank_zero, launched

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def run(
    recipe: Recipe | Path | str, *, show: Show = SILENT, fabric: Fabric | None = None, command: str = "",
    given: Loaded | None = None, trained: bool = True,
) -> Result:  # fmt: skip
    """Do everything that a recipe asks for, in its folder; go on where an earlier call was interrupted.

    Every step has a digest of its settings, of all steps before it and of the input weights. A step whose folder holds
    results of the same digest is not run again, so a mended recipe keeps the steps that did not change.

    Args:
        recipe: what to do, or the path of a recipe file.
        show: how to tell what happens.
        fabric: processes and devices; by default one process on the best device, or all of torchrun.
        command: what the report says to type to repeat the run.
        given: a network and data of the caller's, instead of those that the recipe names ...
        trained: ... and whether that network's weights were learned.

    Raises:
        SlimcnnError: anything that the user can fix, in one line; `RecipeError` for an order that makes no sense,
            before anything runs.
    """
    if not isinstance(recipe, Recipe):
        recipe = read_recipe(recipe)
    if given is None:
        refuse_unnamed(recipe.network)
    known = recipe.network.weights is not None if given is None else trained
    facts_before(recipe.steps, FROM_WEIGHTS if known else frozenset())
    fabric = launched(fabric)
    show = show if fabric.is_global_zero else SILENT
    root = Path(recipe.out)
    with ExitStack() as held:
        from_rank_zero(fabric, lambda: held.enter_context(disk.locked(root)) and None)
        loaded = given or _load(recipe, show, fabric)
        base = _base(recipe, given)
        from_rank_zero(fabric, lambda: disk.begin(recipe, root, base))
        job = Job(recipe, root, loaded, fabric, show, command, loaded.model if given else None)
        state, start = begin(job, base, known)
        if recipe.curve:
            found = run_curve(job, state, start)
        else:
            found = finish(job, follow(job, recipe.steps, state, start, root, 1), start)
        from_rank_zero(fabric, lambda: _claim_files(root, loaded.data))
        return found


def _load(recipe: Recipe, show: Show, fabric: Fabric) -> Loaded:
    if fabric.world_size > 1:
        # One process fetches; the others find the cache filled.
        from_rank_zero(fabric, lambda: load_with_data(recipe.network, recipe.data).normalization)
    return load_with_data(recipe.network, recipe.data, show)


def _claim_files(root: Path, data: Dataset) -> None:
    """Write the manifest of a run that has just finished; of one that was finished before, only the recipe is new."""
    if (root / MANIFEST).exists():
        claim(root / disk.RECIPE)
        return
    images = {"dataset": data.name, "part": "test", "n": len(data.test), "sha256": fingerprint((data.test.to("cpu"),))}
    write_manifest(root, images)


def _base(recipe: Recipe, given: Loaded | None) -> str:
    """Digest what a run starts from: the network, its weights, the data."""
    plain = recipe.plain()
    network = {key: value for key, value in plain["network"].items() if key != "weights"}
    weights = ""
    if given is not None:
        weights = digest_of([given.model]) + hashlib.sha256(given.data.train.labels.numpy().tobytes()).hexdigest()
    elif recipe.network.weights is not None:
        with open(recipe.network.weights, "rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()
    return digest(network, weights, plain["data"], recipe.deterministic)
