"""A run from recipe to report: take the network, cut it, prove the cut, win the accuracy back, measure, save."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from slimcnn.checkpoints import is_checkpoint, load, read_information, save
from slimcnn.choosing import begin_search, make_plan, scattered, search_plan, without_relations
from slimcnn.datasets import Dataset, load_dataset
from slimcnn.distillation import Teacher, objective_named
from slimcnn.distillation.terms import parts_of
from slimcnn.errors import ModelError, RecipeError
from slimcnn.findings import about_cut, about_lesson, about_rewrite, assemble, scales_and_relations
from slimcnn.layers.relating import relating_of
from slimcnn.layers.reusing import units_in
from slimcnn.models import load_weights, preprocessing, resolve
from slimcnn.models.building import takes
from slimcnn.models.sources import refuse_unknown_network
from slimcnn.normalising import find_normalisation
from slimcnn.pruning import mask, prune
from slimcnn.pruning.scores import criterion_named
from slimcnn.pruning.verify import law
from slimcnn.recipes import Distilling, Network, Recipe, Rewriting
from slimcnn.recovery import reuse_features
from slimcnn.reporting.contents import Curve, Report, Stage
from slimcnn.rewriting import fold_relations, rewrite_named, rewritten
from slimcnn.runs import ANSWERS, COMPRESSED, ORIGINAL, PLAN, REWRITTEN, RunFolder
from slimcnn.stages import (
    Cut,
    curve,
    learn,
    recover,
    run_epochs,
    timed,
    train_softly,
    train_sparsely,
    training_images,
)
from slimcnn.start import SILENT, Show, Start
from slimcnn.training import Training
from slimcnn.training.processes import from_rank_zero, launched

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def run(recipe: Recipe, *, show: Show = SILENT, fabric: Fabric | None = None, command: str = "") -> Report | None:
    """Do everything that a recipe asks for, in its folder; go on where an earlier call was interrupted.

    Returns the report of a compression; None for a recipe that only trains.

    Raises:
        SlimcnnError: anything that the user can mend, in one line.
    """
    if recipe.prune is None and recipe.pretrain is None and recipe.rewrite is None and recipe.distill is None:
        raise RecipeError("the recipe does nothing: give it [pretrain], [prune], [rewrite] or [distill]")
    if recipe.rewrite is not None:
        rewrite_named(recipe.rewrite.rule)
    if recipe.distill is not None:
        parts_of(recipe.distill.loss)
        if recipe.distill.student.model:
            refuse_unknown_network(recipe.distill.student.model)
    if recipe.prune is not None and recipe.prune.plan is None:
        criterion_named(recipe.prune.criterion)  # a typing mistake is to show now, not after hours of training
    fabric = launched(fabric)
    show = show if fabric.is_global_zero else SILENT
    facts = from_rank_zero(fabric, lambda: RunFolder.open(recipe).facts)
    folder = RunFolder(Path(recipe.out), writing=fabric.is_global_zero, facts=facts)
    if recipe.prune is not None and recipe.prune.search is not None and folder.writing:
        begin_search(recipe, recipe.prune.search, folder.path)
    anew = recipe.rewrite is not None and recipe.rewrite.init == "random"
    start = prepare(recipe, show, folder, fabric, trained=not anew)
    if recipe.rewrite is not None:
        return _rewrite(recipe, recipe.rewrite, start, folder, show, fabric, command)
    if recipe.distill is not None:
        return _distill(recipe, recipe.distill, start, folder, show, fabric, command)
    if recipe.prune is None:
        return None
    sparse, start = sparsified(recipe, start, folder, show, fabric)
    whole = scattered(recipe.prune, sparse)
    if recipe.prune.search is not None:
        graph, plan = search_plan(recipe, recipe.prune.search, whole, folder, show, fabric)
    else:
        graph, plan = make_plan(recipe.prune, whole, show)
    related = scales_and_relations(whole.model, graph, plan) if recipe.sparsify or relating_of(whole.model) else ()
    whole, graph, plan = without_relations(whole, graph, plan)
    if recipe.prune.soft is not None:
        whole, plan = train_softly(recipe.prune.soft, whole, graph, plan, folder, show, fabric)
    if folder.writing:
        plan.save(folder / PLAN, graph)
    with timed(folder, "cut"):
        show.say(f"cutting {int(plan.counts(graph).sum())} channels and proving the cut")
        small = prune(whole.model, graph, plan, verify=False)
        verdict = law(mask(whole.model, graph, plan), small, graph, plan)
    stages, curves = recover(recipe, start, small, Cut(whole.model, graph, plan), folder, show, fabric)
    if not folder.writing:
        return None
    return _finish(
        recipe, start, small, about_cut(start, graph, plan, verdict, related), stages, curves, folder, show, command
    )


def _rewrite(
    recipe: Recipe, rewriting: Rewriting, start: Start, folder: RunFolder, show: Show, fabric: Fabric, command: str
) -> Report | None:
    """Rewrite the network, begin from the original's features, and train."""
    show.say(f"rewriting the network: {rewriting.rule}")
    found = rewritten(start.model, rewriting.rule, start.example)
    small = found.model
    show.say(f"{sum(bool(one.what) for one in found.changes)} of {len(found.changes)} layers rewritten")
    if from_rank_zero(fabric, (folder / REWRITTEN).exists):
        small.load_state_dict(load(folder / REWRITTEN, small).state_dict())
    elif rewriting.init == "reuse" and units_in(small):

        def solving(done: int, total: int) -> None:
            show.progress("solving layers", done, total)

        def begun() -> dict[str, Tensor]:
            show.say(str(reuse_features(small, start.model, training_images(recipe, start), solving)))
            return small.state_dict()

        with timed(folder, "reuse"):
            small.load_state_dict(from_rank_zero(fabric, begun))
        if folder.writing:
            save(small, folder / REWRITTEN)
    stages, curves = recover(recipe, start, small, None, folder, show, fabric)
    if not folder.writing:
        return None
    about = about_rewrite(rewriting.rule, found)
    return _finish(recipe, start, small, about, stages, curves, folder, show, command)


def _distill(
    recipe: Recipe, settings: Distilling, start: Start, folder: RunFolder, show: Show, fabric: Fabric, command: str
) -> Report | None:
    """Teach the student what the network knows, and compare how close both find classes."""
    training = settings.training
    student, _ = load_network(settings.student, start.dataset, training.seed)
    others = [load_network(other, start.dataset, 0)[0] for other in settings.teachers]
    teacher = Teacher([start.model, *others])
    if settings.teacher_cache is not None:
        training = training.model_copy(update={"views": settings.teacher_cache})
        teacher = teacher.cached(folder / ANSWERS, len(start.dataset.train), settings.teacher_cache)
    objective = objective_named(settings.loss, teacher, training.label_smoothing)
    stages, curves = learn(
        start, student, objective, training, settings.student.weights is not None, folder, show, fabric
    )
    if not folder.writing:
        return None
    named = " + ".join(f"{term.weight:g} {term.name}" for term in objective.terms)
    about = about_lesson(named, start, student)
    return _finish(recipe, start, student, about, stages, curves, folder, show, command)


def sparsified(recipe: Recipe, start: Start, folder: RunFolder, show: Show, fabric: Fabric) -> tuple[Start, Start]:
    """Train sparsely where the recipe says so; gives the sparse network, and the one that counts as the original.

    That is the network from before, unless it was not trained then: sparse training was its only one.
    """
    if recipe.sparsify is None:
        return start, start
    sparse = train_sparsely(recipe.sparsify, start, folder, show, fabric)
    if recipe.network.weights is not None or recipe.pretrain is not None:
        return sparse, start
    model = fold_relations(sparse.model) if recipe.sparsify.relations == "mean" else sparse.model
    return sparse, replace(start, model=model)


# --- the original -------------------------------------------------------------------------------------------------


def prepare(
    recipe: Recipe, show: Show, folder: RunFolder | None = None, fabric: Fabric | None = None, trained: bool = True
) -> Start:
    """Load the data and the trained network; train it first if the recipe says so.

    `trained=False` accepts a network with random weights: enough to see a plan.
    """
    network, data = recipe.network, recipe.data
    size = data.image_size or _size_for_folder(recipe)
    if fabric is not None and fabric.world_size > 1:
        # One process fetches; the others find the cache filled.
        from_rank_zero(fabric, lambda: len(load_dataset(data.name, image_size=size, seed=data.seed).classes))
    dataset = load_dataset(data.name, image_size=size, seed=data.seed)
    if data.limit:
        dataset = dataset.limit(data.limit)
    model, information = load_network(network, dataset, recipe.pretrain.seed if recipe.pretrain else 0)
    if trained and network.weights is None and recipe.pretrain is None and recipe.sparsify is None:
        raise RecipeError("there is no trained network: give --weights FILE, or --pretrain EPOCHS to train one first")
    check_classes(model, dataset)
    if recipe.distill is not None:  # what is wrong with the others is to show before the teacher is trained
        for one in (recipe.distill.student, *recipe.distill.teachers):
            check_classes(load_network(one, dataset, 0)[0], dataset)
    normalisation, how = find_normalisation(model, network, data, dataset, information)
    start = Start(model, replace(dataset, normalisation=normalisation), how, _contamination(recipe))
    if recipe.pretrain is not None:
        _pretrain(recipe.pretrain, start, show, folder, fabric)
    return start


def load_network(network: Network, dataset: Dataset, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """Build a network for a dataset and load its weights, from a checkpoint of ours or any weights file."""
    checkpoint = network.weights is not None and is_checkpoint(network.weights)
    if not network.model and not checkpoint:
        raise RecipeError("which network? give --model NAME (see slimcnn list networks), or --weights CHECKPOINT")
    original = None
    if network.model and (not checkpoint or ":" in network.model):
        arguments = {"num_classes": len(dataset.classes), "in_channels": dataset.shape[0]}
        if takes(network.model, "image_size"):
            arguments["image_size"] = max(dataset.shape[1:])
        arguments |= network.arguments
        # The first weights are part of the recipe: a run that was killed early must begin with the same ones.
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            original = resolve(network.model, **arguments)
            if network.rewrite:
                original = rewritten(original, network.rewrite, torch.zeros(1, *dataset.shape)).model
    if checkpoint:
        assert network.weights is not None
        return load(network.weights, original), read_information(network.weights)
    assert original is not None
    if network.weights is not None:
        load_weights(original, network.weights)
    return original.eval(), {}


def _size_for_folder(recipe: Recipe) -> int | None:
    """Images of a user's folder come in any size: scale them to what the network was made for."""
    from slimcnn.datasets import datasets

    if recipe.data.name.partition(":")[0] in datasets or not recipe.network.model:
        return None
    stated = preprocessing(recipe.network.model).input
    return stated[1] if stated else None


def check_classes(model: nn.Module, dataset: Dataset) -> None:
    """Refuse a network that does not answer images of the dataset with a score for each class."""
    x = dataset.normalisation(dataset.validation.pixels[:2])
    try:
        with torch.no_grad():
            scores = model.eval()(x)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise ModelError(f"the network does not accept images {tuple(x.shape)} of {dataset.name}: {reason}") from error
    if not isinstance(scores, Tensor) or scores.dim() != 2 or scores.shape[1] < len(dataset.classes):
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ModelError(
            f"the network returns {found} for 2 images; {dataset.name} needs scores (2, {len(dataset.classes)}): "
            "is it built and trained for these classes?"
        )


def _contamination(recipe: Recipe) -> tuple[str, ...]:
    if recipe.network.weights is None:
        return ()
    return (
        "The weights come from a file: if they were trained on the validation images too, validation top-1 is "
        "flattering until the test images, read once at the end, tell.",
    )


def _pretrain(training: Training, start: Start, show: Show, folder: RunFolder | None, fabric: Fabric | None) -> None:
    if folder is not None and (folder / ORIGINAL).exists():
        start.model.load_state_dict(load(folder / ORIGINAL).state_dict())
        show.say("the network is already trained")
        return
    show.say(f"training the network: {training.epochs} epochs on {len(start.dataset.train)} images")
    history = list(run_epochs(start.model, start.dataset, training, None, folder, "pretrain", "training", show, fabric))
    if folder is not None:
        folder.remember(pretrained=[curve(epoch).model_dump() for epoch in history])
        if folder.writing:
            save(start.model, folder / ORIGINAL, information=start.information(history[-1].validation_top1))
            show.say(f"saved {folder / ORIGINAL}")


# --- the end ------------------------------------------------------------------------------------------------------


def _finish(
    recipe: Recipe, start: Start, small: nn.Module, about: dict[str, Any], stages: list[Stage], curves: list[Curve],
    folder: RunFolder, show: Show, command: str,
) -> Report:  # fmt: skip
    from slimcnn.reporting import write_report

    save(small, folder / COMPRESSED, information=start.information(stages[-1].top1))
    if not (folder / ORIGINAL).exists():
        save(start.model, folder / ORIGINAL, information=start.information(stages[0].top1))
    show.say("measuring both networks, and reading the test images")
    report = assemble(recipe, start, small, about, stages, curves, folder, command)
    write_report(report, folder.path)
    return report
