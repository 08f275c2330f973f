"""What a run consists of, how it begins, and how it is saved."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from slimcnn.datasets import Dataset, batches
from slimcnn.datasets import steps as count_steps
from slimcnn.errors import ModelError, RecipeError, RunError
from slimcnn.objectives import Objective
from slimcnn.training.epochs import Epoch, EpochSums
from slimcnn.training.evaluation import evaluating, scores
from slimcnn.training.memory import keep_freed_memory
from slimcnn.training.optimizers import moving_average, optimizer_for, swap
from slimcnn.training.probing import FORMATS, probe
from slimcnn.training.processes import from_rank_zero
from slimcnn.training.settings import Training
from slimcnn.training.state import describe, load_state, save_state

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """What stays the same from the first step to the last."""

    model: nn.Module
    forward: nn.Module
    """The same network as Fabric runs it, compiled and with gradients averaged over processes."""
    optimizer: Optimizer
    scaler: GradScaler
    average: AveragedModel | None
    objective: Objective
    dataset: Dataset
    training: Training
    steps: int
    """Of one epoch."""
    folder: Path | None
    description: dict[str, Any]
    fabric: Fabric
    progress: Callable[[int, int], None] | None


@dataclass
class TrainingState:
    """Where a run stands: everything but the tensors that the next step depends on."""

    epoch: int = 0
    step: int = 0
    sums: EpochSums = field(default_factory=EpochSums)
    history: list[Epoch] = field(default_factory=list)
    saved: float = field(default_factory=time.perf_counter)


def begin(
    model: nn.Module,
    dataset: Dataset,
    training: Training,
    *,
    objective: Objective,
    folder: Path | None,
    fabric: Fabric,
    progress: Callable[[int, int], None] | None,
) -> tuple[TrainingRun, TrainingState]:
    """Everything before the first step: check, choose or read layout and precision, set up, go back to the state."""
    device = fabric.device
    if device.type == "cpu":
        keep_freed_memory()
    dataset = _nearby(dataset, device)
    _check(model, dataset, training, device)
    steps = count_steps(dataset.train, training.batch_size, world=fabric.world_size)
    description = describe(model, dataset, training, steps)

    def settle() -> tuple[Training, dict[str, Any] | None]:
        stored = load_state(folder, description) if folder else None
        if stored:
            return training.model_copy(update={key: stored[key] for key in ("layout", "precision")}), stored
        return probe(model, dataset, training, device=device), None

    training, stored = from_rank_zero(fabric, settle)
    model.to(device, memory_format=FORMATS[training.layout])  # type: ignore[call-overload]
    layout = FORMATS[training.layout]
    normalized = partial(batches, normalization=dataset.normalization, device=device, memory_format=layout)
    objective.prepare(model, partial(normalized, dataset.train, 256))
    compiled = cast(nn.Module, torch.compile(model, dynamic=False)) if training.compile else model
    run = TrainingRun(
        model=model,
        forward=fabric.setup_module(compiled),
        optimizer=optimizer_for(model, training),
        scaler=GradScaler(device.type, enabled=training.precision == "16-mixed"),
        average=moving_average(model, training.ema) if training.ema else None,
        objective=objective,
        dataset=dataset,
        training=training,
        steps=steps,
        folder=folder,
        description=description,
        fabric=fabric,
        progress=progress,
    )
    if stored:
        return run, restore(run, stored)
    state = TrainingState()
    save(run, state)  # at once: what the probe chose stays chosen, and a folder of no use is found out now
    return run, state


def _nearby(dataset: Dataset, device: torch.device) -> Dataset:
    """The images on the device that trains on them, if they take at most a quarter of its free memory."""
    size = dataset.train.pixels.nbytes + dataset.validation.pixels.nbytes
    if device.type == "cuda" and size < torch.cuda.mem_get_info(device)[0] / 4:
        return replace(dataset, train=dataset.train.to(device), validation=dataset.validation.to(device))
    return dataset


def _check(model: nn.Module, dataset: Dataset, training: Training, device: torch.device) -> None:
    if training.precision == "16-mixed" and device.type != "cuda":
        raise RecipeError(f"precision '16-mixed' needs a CUDA device, found {device.type}: use 'bf16-mixed' or '32'")
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{name} has values that are not finite: the network is damaged before training begins")
    with evaluating(model, device), torch.no_grad():
        x, _ = next(batches(dataset.validation, 1, normalization=dataset.normalization, device=device))
        scores(model, x, len(dataset.classes))


def save(run: TrainingRun, state: TrainingState) -> None:
    """Write the state on rank 0, unless a step has left weights that are not finite: the next look will say so."""
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
    }
    save_state(run.folder, run.description, content)


def restore(run: TrainingRun, stored: dict[str, Any]) -> TrainingState:
    """Put the stored tensors into the run, and say where it stands; `RunError` if they do not fit."""
    try:
        run.model.load_state_dict(stored["model"])
        run.optimizer.load_state_dict(stored["optimizer"])
        run.scaler.load_state_dict(stored["scaler"])
        if run.average:
            run.average.load_state_dict(stored["average"])
        history = [Epoch(**epoch) for epoch in stored["history"]]
        return TrainingState(stored["epoch"], stored["step"], EpochSums(**stored["sums"]), history)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise RunError(f"the state in {run.folder} does not fit: {reason}; delete it to begin again") from error


def exchange(run: TrainingRun) -> None:
    """Exchange the network's weights and their moving average, if there is one."""
    if run.average:
        swap(run.model, run.average)
