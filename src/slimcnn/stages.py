"""The stages of a run after the cut: every step that wins accuracy back, and how good the network is after it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from slimcnn.checkpoints import load, save
from slimcnn.datasets import Dataset, batches
from slimcnn.distillation import hinton
from slimcnn.graph import ChannelGraph
from slimcnn.graph.copying import duplicate
from slimcnn.layers.relating import relating_of
from slimcnn.objectives import Objective, SparseScales, cross_entropy, spread
from slimcnn.pruning import Plan, SoftPruning
from slimcnn.recipes import Recipe, Sparsifying
from slimcnn.recovery import fold_constants, least_squares, recalibrate, synthesise
from slimcnn.reporting.contents import Curve, Stage
from slimcnn.rewriting import insert_relations
from slimcnn.runs import SPARSE, RunFolder
from slimcnn.start import Show, Start
from slimcnn.training import Epoch, Training, evaluate, fit
from slimcnn.training.processes import from_rank_zero
from slimcnn.training.schedule import learning_rate

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BATCH = 128
"""Images that go through the network at once where nothing is trained."""

SHRINKAGE = 2.0
"""What a scale (1.14 at first, where there are relations) would lose in sparse training if the loss did not need it."""

LARGEST_STEP = 0.01
"""What it would lose at most in one step."""

UNTRAINED = {
    "constants": "constants folded",
    "bn": "recalibrated",
    "least_squares": "re-solved",
    "data_free": "re-solved without images",
}
"""What a network is called after a step that does not train it."""

TRAINED = {"distill": ("distilling from the original", "distilled"), "finetune": ("fine-tuning", "fine-tuned")}
"""What a kind of training is called while it goes on, and afterwards."""


@dataclass(frozen=True)
class Cut:
    """What a network was cut out of, and how."""

    whole: nn.Module
    graph: ChannelGraph
    plan: Plan


def recover(
    recipe: Recipe, start: Start, small: nn.Module, cut: Cut | None, folder: RunFolder, show: Show, fabric: Fabric
) -> tuple[list[Stage], list[Curve]]:
    """Win the accuracy of `small`, which was cut or else rewritten, back in place, by the steps of the recipe."""
    first = "cut" if cut is not None else "rewritten"
    stages = [_stage(start.model, "original", start, folder, fabric), _stage(small, first, start, folder, fabric)]
    steps = recipe.recover.steps
    for step in steps:
        if step in TRAINED:
            break  # the last
        began = time.perf_counter()
        if _win_back(step, recipe, start, small, cut, show, fabric):
            stages.append(_stage(small, UNTRAINED[step], start, folder, fabric, began))
    if steps:
        show.say(", ".join(f"{stage.name} {stage.top1:.2f} %" for stage in stages) + " (validation top-1)")
    if not recipe.recover.trains:
        return stages, []
    objective, training = _lesson(recipe, start)
    verb, name = TRAINED[steps[-1]]
    show.say(f"{verb}: {training.epochs} epochs on {len(start.dataset.train)} images")
    history = list(run_epochs(small, start.dataset, training, objective, folder, "recover", verb, show, fabric))
    seconds = sum(epoch.seconds for epoch in history)
    stages.append(Stage(name=name, top1=history[-1].validation_top1, seconds=seconds))
    return stages, [curve(epoch) for epoch in history]


def _win_back(
    step: str, recipe: Recipe, start: Start, small: nn.Module, cut: Cut | None, show: Show, fabric: Fabric
) -> bool:
    """Take one step that trains nothing; tells whether it changed the network."""
    if step == "bn":
        return bool(recalibrate(small, training_images(recipe, start)))
    assert cut is not None
    if step == "constants":
        show.say(str(fold_constants(small, cut.whole, cut.graph, cut.plan)))
    else:
        small.load_state_dict(from_rank_zero(fabric, lambda: _re_solve(step, recipe, start, small, cut, show)))
    return True


def learn(
    start: Start, student: nn.Module, objective: Objective, training: Training, knows: bool, folder: RunFolder,
    show: Show, fabric: Fabric,
) -> tuple[list[Stage], list[Curve]]:  # fmt: skip
    """Teach a student, in place; `knows`: it has learnt something before."""
    stages = [_stage(start.model, "teacher", start, folder, fabric)]
    stages += [_stage(student, "student before", start, folder, fabric)] if knows else []
    show.say(", ".join(f"{stage.name} {stage.top1:.2f} %" for stage in stages) + " (validation top-1)")
    show.say(f"distilling: {training.epochs} epochs on {len(start.dataset.train)} images")
    training = training.model_copy(update={"label_smoothing": 0.0})  # the objective knows of it
    history = list(
        run_epochs(student, start.dataset, training, objective, folder, "distill", "distilling", show, fabric)
    )
    seconds = sum(epoch.seconds for epoch in history)
    stages.append(Stage(name="student", top1=history[-1].validation_top1, seconds=seconds))
    return stages, [curve(epoch) for epoch in history]


def train_softly(
    training: Training, start: Start, graph: ChannelGraph, plan: Plan, folder: RunFolder, show: Show, fabric: Fabric
) -> tuple[Start, Plan]:
    """Train a copy of the network while the filters that will go are chosen anew after every epoch."""
    model = duplicate(start.model)
    soft = SoftPruning(model, graph, plan)
    show.say(f"training softly: {training.epochs} epochs on {len(start.dataset.train)} images")
    objective = soft.objective(cross_entropy(training.label_smoothing))
    training = training.model_copy(update={"label_smoothing": 0.0})
    list(run_epochs(model, start.dataset, training, objective, folder, "soft", "training softly", show, fabric))
    return replace(start, model=model), soft.choose(zero=False)


def train_sparsely(settings: Sparsifying, start: Start, folder: RunFolder, show: Show, fabric: Fabric) -> Start:
    """Train a copy of the network with a penalty on its scales, and on the relations that are put in first."""
    if relating_of(start.model):
        show.say("the network has relations of its channels already: taken as trained sparsely")
        return start
    related = settings.relations != "none"
    model = insert_relations(start.model, start.example, settings.relations) if related else duplicate(start.model)
    if (folder / SPARSE).exists():
        model.load_state_dict(load(folder / SPARSE, model).state_dict())
        show.say("the network is already sparse")
        return replace(start, model=model)
    strength = settings.strength or strength_for(settings.training, len(start.dataset.train))
    objective = SparseScales(
        cross_entropy(settings.training.label_smoothing), strength, settings.penalty, settings.step
    )
    training = settings.training.model_copy(update={"label_smoothing": 0.0})
    show.say(
        f"training sparsely: {training.epochs} epochs on {len(start.dataset.train)} images, strength {strength:.2g}"
    )
    curves = []
    for epoch in run_epochs(
        model, start.dataset, training, objective, folder, "sparsify", "training sparsely", show, fabric
    ):
        curves.append(curve(epoch))
        show.say(f"  {spread(model)}")
    if spread(model).saturated and related:
        show.say("the relations say nothing (their spread is below 0.02): channels go by their scales alone")
    folder.remember(sparsified=[one.model_dump() for one in curves])
    if folder.writing:
        save(model, folder / SPARSE, information=start.information(curves[-1].validation_top1))
    return replace(start, model=model)


def strength_for(training: Training, images: int) -> float:
    """Choose lambda so that over the whole training a scale that nothing needs would lose `SHRINKAGE`.

    lambda = 2 (1 - momentum) / sum of the learning rates of all steps, for any budget; but no step takes more than
    0.01, or a short training would silence the network before it has learnt anything.  At 160 epochs of 45,000 images
    with the default schedule it is 7e-5; the papers take 1e-4.

    >>> f"{strength_for(Training(epochs=160), 45000):.1e}"
    '7.1e-05'
    """
    steps = training.epochs * math.ceil(images / training.batch_size)
    rates = [learning_rate(training, step, steps) for step in range(steps)]
    return min(SHRINKAGE / sum(rates), LARGEST_STEP / max(rates)) * (1 - training.momentum)


def training_images(recipe: Recipe, start: Start) -> Iterator[Tensor]:
    """Give training images as the network expects them, without their labels."""
    feed = batches(
        start.dataset.train.limit(recipe.recover.images), BATCH, normalisation=start.dataset.normalisation, seed=0
    )
    return (x for x, _ in feed)


def _re_solve(step: str, recipe: Recipe, start: Start, small: nn.Module, cut: Cut, show: Show) -> dict[str, Tensor]:
    """Solve the layers behind the cut anew, on training images or on images that are made; gives the new state."""

    def making(done: int, total: int) -> None:
        show.progress("making images", done, total)

    def solving(done: int, total: int) -> None:
        show.progress("re-solving layers", done, total)

    if step == "data_free":
        images = iter(synthesise(cut.whole, start.dataset.shape, progress=making).split(BATCH))
    else:
        images = training_images(recipe, start)
    show.say(str(least_squares(small, cut.whole, cut.graph, cut.plan, images, solving)))
    return small.state_dict()


def _lesson(recipe: Recipe, start: Start) -> tuple[Objective | None, Training]:
    """What the small network is trained on: labels alone, or the original's answers too."""
    recovery, training = recipe.recover, recipe.recover.training
    if recovery.steps[-1] == "finetune":
        return None, training
    objective = hinton(
        start.model, recovery.temperature, recovery.alpha, label_smoothing=training.label_smoothing
    )  # fmt: skip
    return objective, training.model_copy(update={"label_smoothing": 0.0})


def _stage(
    model: nn.Module, name: str, start: Start, folder: RunFolder, fabric: Fabric, began: float | None = None
) -> Stage:
    """Evaluate after a step that `began` then, unless that was done before an interruption."""
    known = folder.facts.get("stages", {})
    if name not in known:
        began = began or time.perf_counter()
        top1 = evaluate(model, start.dataset.validation, start.dataset.normalisation, fabric=fabric).top1
        known = known | {name: {"top1": top1, "seconds": time.perf_counter() - began}}
        folder.remember(stages=known)
    return Stage(name=name, **known[name])


def run_epochs(
    model: nn.Module, dataset: Dataset, training: Training, objective: Objective | None,
    folder: RunFolder | None, name: str, verb: str, show: Show, fabric: Fabric | None,
) -> Iterator[Epoch]:  # fmt: skip
    """Train, and tell of every epoch."""

    def progress(done: int, total: int) -> None:
        show.progress(verb, done, total)

    state = folder / name if folder is not None else None
    for epoch in fit(
        model, dataset, training=training, objective=objective, folder=state, fabric=fabric, progress=progress
    ):
        again = " (from before)" if epoch.resumed else ""
        show.say(
            f"epoch {epoch.epoch}/{epoch.epochs}: loss {epoch.loss:.3f}, validation top-1 "
            f"{epoch.validation_top1:.2f} %, {epoch.images_per_second:.0f} images/s{again}"
        )
        yield epoch


def curve(epoch: Epoch) -> Curve:
    """Keep of an epoch what the report shows."""
    return Curve(
        epoch=epoch.epoch, loss=epoch.loss, terms=epoch.terms, gradients=epoch.gradients, train_top1=epoch.train_top1,
        validation_top1=epoch.validation_top1, learning_rate=epoch.learning_rate, seconds=epoch.seconds,
    )  # fmt: skip


@contextmanager
def timed(folder: RunFolder, name: str) -> Iterator[None]:
    """Add the time that a block takes to the run's facts, so that interruptions do not count."""
    began = time.perf_counter()
    yield
    seconds = folder.facts.get("seconds", {})
    folder.remember(seconds=seconds | {name: time.perf_counter() - began})
