"""A training run: its parts, how it starts, and how its state is saved and restored."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from slimcnn.datasets import AnyLoader, Dataset, batches
from slimcnn.datasets import steps as count_steps
from slimcnn.datasets.augmenting import OnPairs, mixing
from slimcnn.errors import ModelError, RecipeError, RunError
from slimcnn.objectives import Objective
from slimcnn.tasks import Metric, Task
from slimcnn.tasks.task import answer
from slimcnn.training.augmenting import augmented
from slimcnn.training.depth import body_of, head_of, rate_shares
from slimcnn.training.epochs import Epoch, EpochSums
from slimcnn.training.evaluation import evaluating, scores
from slimcnn.training.judging import Judge, MetricFunction, data_to_fit, judge_of, metric_of
from slimcnn.training.keeping import START, KeptWeights, better
from slimcnn.training.memory import keep_freed_memory
from slimcnn.training.optimizers import moving_average, optimizer_for, swap
from slimcnn.training.probing import FORMATS, probe
from slimcnn.training.processes import from_rank_zero
from slimcnn.training.settings import Training
from slimcnn.training.state import describe, load_state, save_state

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True, eq=False)
class Frozen:
    """The layers that the first epochs do not train."""

    head: nn.Module
    """The module that they train."""
    body: tuple[nn.Parameter, ...]
    """All other parameters that are trained later."""


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """The objects and settings that stay the same during a run."""

    model: nn.Module
    forward: nn.Module
    """The same network, set up by Fabric: compiled if requested, with gradients averaged over processes."""
    frozen: Frozen | None
    """The layers that do not train in this epoch; None if all do."""
    optimizer: Optimizer
    scaler: GradScaler
    average: AveragedModel | None
    objective: Objective
    task: Task
    dataset: Dataset
    training: Training
    steps: int
    """Batches per epoch."""
    folder: Path | None
    description: dict[str, Any]
    fabric: Fabric
    progress: Callable[[int, int], None] | None
    judge: Judge | None
    """Validates the network; None if there is nothing to validate it with."""
    metric: Metric
    """What the judge measures."""

    @property
    def updates(self) -> int:
        """Steps of the optimizer per epoch."""
        return -(-self.steps // self.training.accumulate)

    @cached_property
    def mixing(self) -> tuple[OnPairs, ...]:
        """Mixup and cutmix, if the augmentation names them."""
        return mixing(self.dataset.augmentation.others)


@dataclass
class TrainingState:
    """The progress of a run: everything except tensors that the next step depends on."""

    epoch: int = 0
    step: int = 0
    sums: EpochSums = field(default_factory=EpochSums)
    history: list[Epoch] = field(default_factory=list)
    kept: KeptWeights | None = None
    """The best weights so far; None if the last ones are kept, or if the start has no finite scores."""
    saved: float = field(default_factory=time.perf_counter)


def begin(
    model: nn.Module,
    data: Dataset | AnyLoader,
    training: Training,
    *,
    validation: AnyLoader | MetricFunction | None,
    objective: Objective,
    task: Task,
    folder: Path | None,
    fabric: Fabric,
    progress: Callable[[int, int], None] | None,
) -> tuple[TrainingRun, TrainingState]:
    """Prepare the first step: check the inputs, choose layout and precision or read them, set up, restore the state."""
    device = fabric.device
    if device.type == "cpu":
        keep_freed_memory()
    dataset = _on_device(augmented(training, data_to_fit(model, data, validation, device)), device)
    judge = judge_of(dataset, validation, training.batch_size, fabric)
    if not objective.judged_by_metric or judge is None:
        training = training.model_copy(update={"keep": "last"})
    _check(model, dataset, task, training, device)
    steps = _steps_per_epoch(dataset, training, fabric)
    description = describe(model, dataset, training, steps)

    def resolve() -> tuple[Training, dict[str, Any] | None]:
        stored = load_state(folder, description) if folder else None
        if stored:
            return training.model_copy(update={key: stored[key] for key in ("layout", "precision")}), stored
        return probe(model, dataset, training, device=device), None

    training, stored = from_rank_zero(fabric, resolve)
    model.to(device, memory_format=FORMATS[training.layout])  # type: ignore[call-overload]
    layout = FORMATS[training.layout]
    normalized = partial(batches, normalization=dataset.normalization, device=device, memory_format=layout)
    objective.prepare(model, partial(normalized, dataset.train, 256))
    frozen, shares = _by_depth(model, dataset, training, objective, device)
    run = TrainingRun(
        model=model,
        forward=model,
        frozen=frozen,
        optimizer=optimizer_for(model, training, shares),
        scaler=GradScaler(device.type, enabled=training.precision == "16-mixed"),
        average=moving_average(model, training.ema) if training.ema else None,
        objective=objective,
        task=task,
        dataset=dataset,
        training=training,
        steps=steps,
        folder=folder,
        description=description,
        fabric=fabric,
        progress=progress,
        judge=judge,
        metric=metric_of(validation, task),
    )
    if stored:
        state = restore(run, stored)
        return set_up(run, frozen if state.epoch < training.frozen_epochs else None), state
    run = set_up(run, frozen)
    state = TrainingState(kept=_start(run))
    save(run, state)  # at once: stores the probe's choice, and fails now if the folder cannot be written to
    return run, state


def _steps_per_epoch(dataset: Dataset, training: Training, fabric: Fabric) -> int:
    steps = count_steps(dataset.train, training.batch_size, world=fabric.world_size)
    if training.accumulate > steps:
        raise RecipeError(
            f"accumulate={training.accumulate}: an epoch has {steps} batches of {training.batch_size} images: use a "
            "smaller batch_size, or accumulate fewer"
        )
    return steps


def _by_depth(
    model: nn.Module, dataset: Dataset, training: Training, objective: Objective, device: torch.device
) -> tuple[Frozen | None, dict[int, float] | None]:
    """Return what the first epochs freeze, and each parameter's share of the learning rate; None if it is all the same.

    Both depend on the network only, so that they are the same at every start of a run.
    """
    if not training.frozen_epochs and training.depth_decay == 1:
        return None, None
    if training.frozen_epochs and not objective.judged_by_metric:
        raise RecipeError(
            f"{type(objective).__name__} changes weights of all layers in every epoch: leave frozen_epochs out"
        )
    x, _ = next(batches(dataset.validation, 1, normalization=dataset.normalization, device=device))
    shares = rate_shares(model, x, training.depth_decay) if training.depth_decay != 1 else None
    if not training.frozen_epochs:
        return None, shares
    head = head_of(model, x, training.head)
    return Frozen(head, body_of(model, head)), shares


def set_up(run: TrainingRun, frozen: Frozen | None) -> TrainingRun:
    """Freeze layers, or let those of the run train again, and set the network up for its devices.

    It is set up again when layers begin to train, because processes average the gradients of parameters that trained
    when it was set up.
    """
    for parameter in run.frozen.body if run.frozen is not None else ():
        parameter.requires_grad_(frozen is None)
    compiled = cast(nn.Module, torch.compile(run.model, dynamic=False)) if run.training.compile else run.model
    return replace(run, forward=run.fabric.setup_module(compiled), frozen=frozen)


def _start(run: TrainingRun) -> KeptWeights | None:
    """Validate the weights before the first step if the best ones are kept."""
    if run.training.keep == "last" or run.judge is None:
        return None
    try:
        found = run.judge(run.model).score
    except ModelError:  # scores of an untrained network may overflow in eval mode: then any epoch is better
        return None
    return better(None, START, found, run.model, run.metric)


def _on_device(dataset: Dataset, device: torch.device) -> Dataset:
    """Move the images to the training device if they take at most a quarter of its free memory.

    Transforms of single images run on the CPU, so that they give the same bits everywhere.
    """
    if dataset.augmentation.of_images.others:
        return dataset
    size = dataset.train.nbytes + dataset.validation.nbytes
    if device.type == "cuda" and size < torch.cuda.mem_get_info(device)[0] / 4:
        return replace(dataset, train=dataset.train.to(device), validation=dataset.validation.to(device))
    return dataset


def _check(model: nn.Module, dataset: Dataset, task: Task, training: Training, device: torch.device) -> None:
    if training.precision == "16-mixed" and device.type != "cuda":
        raise RecipeError(f"precision '16-mixed' needs a CUDA device, found {device.type}: use 'bf16-mixed' or '32'")
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{name} has values that are not finite before training: check how it was built or loaded")
    with evaluating(model, device), torch.no_grad():
        x, _ = next(batches(dataset.validation, 1, normalization=dataset.normalization, device=device))
        if dataset.task == "classification":
            scores(model, x, len(dataset.classes))
        else:
            task.scores(answer(model, x, dataset.name), x)


def save(run: TrainingRun, state: TrainingState) -> None:
    """Write the state on rank 0, unless weights are not finite: the next check of the loss then raises the error."""
    state.saved = time.perf_counter()
    if not run.folder or not run.fabric.is_global_zero:
        return
    if not all(bool(torch.isfinite(tensor).all()) for tensor in run.model.state_dict().values()):
        return
    content = {
        "layout": run.training.layout,
        "precision": run.training.precision,
        "epoch": state.epoch,
        "step": state.step,
        "sums": state.sums.data(),
        "history": [asdict(epoch) for epoch in state.history],
        "model": dict(run.model.state_dict()),
        "optimizer": run.optimizer.state_dict(),
        "average": dict(run.average.state_dict()) if run.average else None,
        "scaler": run.scaler.state_dict(),
        "kept": state.kept.data() if state.kept else None,
    }
    save_state(run.folder, run.description, content)


def restore(run: TrainingRun, stored: dict[str, Any]) -> TrainingState:
    """Load the stored tensors into the run and return its progress; `RunError` if they do not fit."""
    try:
        run.model.load_state_dict(stored["model"])
        run.optimizer.load_state_dict(stored["optimizer"])
        run.scaler.load_state_dict(stored["scaler"])
        if run.average:
            run.average.load_state_dict(stored["average"])
        history = [Epoch(**epoch) for epoch in stored["history"]]
        kept = KeptWeights(**stored["kept"]) if stored["kept"] else None
        return TrainingState(stored["epoch"], stored["step"], EpochSums(**stored["sums"]), history, kept)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise RunError(f"the state in {run.folder} does not fit: {reason}; delete it to start over") from error


def exchange(run: TrainingRun) -> None:
    """Swap the network's weights with their moving average, if there is one."""
    if run.average:
        swap(run.model, run.average)
