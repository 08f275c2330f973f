"""The training loop, as a generator of epochs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimcnn.datasets import AnyLoader, Dataset, batches, indices
from slimcnn.errors import DataError, ModelError, RecipeError, TrainingDiverged
from slimcnn.modes import modes_restored
from slimcnn.objectives import Loss, LossFunction, Objective, as_objective
from slimcnn.tasks import task_named
from slimcnn.training.accumulating import Together
from slimcnn.training.augmenting import check_augmentation
from slimcnn.training.epochs import GRADIENT, Epoch, EpochSums, first_nonfinite
from slimcnn.training.interrupts import interrupts_noted
from slimcnn.training.judging import Judged, MetricFunction
from slimcnn.training.keeping import better
from slimcnn.training.mixing import mixed_pairs
from slimcnn.training.optimizers import SHARE
from slimcnn.training.probing import FORMATS, MIXED
from slimcnn.training.processes import any_rank, launched, lost_ranks_named, share_buffers, summed
from slimcnn.training.run import TrainingRun, TrainingState, begin, exchange, save, set_up
from slimcnn.training.schedule import learning_rate
from slimcnn.training.settings import Training

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_FROM_SCRATCH = Training()

_STEPS_BETWEEN_CHECKS = 20
"""Steps between two checks of the loss where a check stalls an accelerator or other processes."""


def fit(
    model: nn.Module,
    data: Dataset | AnyLoader,
    *,
    validation: AnyLoader | MetricFunction | None = None,
    training: Training = _FROM_SCRATCH,
    objective: Objective | LossFunction | None = None,
    folder: Path | str | None = None,
    fabric: Fabric | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Epoch]:
    """Train a network in place and yield each epoch's metrics; between epochs the caller may log, save or stop.

    At each yield, the network is in eval mode and holds the weights that `validation_metric` was measured on (those of
    the moving average if there is one), so a `break` keeps exactly these. After the last epoch, the network gets the
    weights with the best validation metric of the start and of all epochs (`training.keep`; `Epoch.kept` says which).
    At the end, or when the caller stops, the network's device and modes are restored and its weights are contiguous.

    With `training.frozen_epochs`, the first epochs train the head only; with `training.depth_decay`, learning rates
    fall toward the input.

    `data` is a dataset, or any iterable of batches (x, y), such as a `DataLoader`: it then sets the batch size and the
    order, and `validation` takes the batches to validate on. Instead, `validation` may be a function of the network
    that returns a number, the higher the better: it decides which epoch is kept, and stands in `validation_metric`.
    Without either, a training on a loader keeps the last epoch.

    `objective` is an `Objective`, whose hooks are called, or a plain function (network, images, labels) → `Loss`; it
    defaults to cross entropy with `training.label_smoothing`. `progress` is called on rank 0 after every
    step with the number of completed steps and the number of steps of the run.

    With a `folder`, the state is replaced there atomically at the start, after every epoch and every
    `training.save_every_seconds`. The same call then resumes after any interruption, `kill -9` and Ctrl-C included.
    It first yields the completed epochs (`resumed=True`). On a CPU with the same number of threads it ends with
    bit-identical weights: batches and the random numbers of every step depend only on (seed, epoch, step).

    `fabric` sets the devices and processes: `Fabric(accelerator="cpu", devices=2, strategy="ddp")`; by default
    one process on the best device, or all processes of torchrun. `training.batch_size` counts over all processes.
    In batch norm, each process uses the statistics of its own share; everything else matches one process.

    Raises `ModelError` for a network that does not fit the dataset, `RunError` for a folder that cannot be used or
    belongs to another run, `RecipeError` for conflicting settings, and `TrainingDiverged` for a non-finite loss; the
    folder then still holds the last good state.

    >>> from slimcnn.datasets import load_dataset
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> for epoch in fit(model, load_dataset("digits"), training=Training(epochs=2, layout="nchw", precision="32")):
    ...     print(epoch.epoch, epoch.validation_metric > 50)
    1 True
    2 True
    """
    if objective and training.label_smoothing:
        raise RecipeError(
            f"label_smoothing={training.label_smoothing} applies to the default objective only: "
            "set it in your objective instead"
        )
    if training.views and not isinstance(data, Dataset):
        raise RecipeError("cached views need a dataset, whose images can be told apart: leave out views")
    named = data.task if isinstance(data, Dataset) else "classification"
    check_augmentation(training, data)
    task = task_named(named)
    chosen = as_objective(objective or task.objective(training.label_smoothing))
    chosen.reading(task.scores)
    start = partial(
        begin,
        model,
        data,
        training,
        validation=validation,
        objective=chosen,
        task=task,
        folder=Path(folder) if folder else None,
        progress=progress,
    )
    return _epochs(model, fabric, start)


def _epochs(
    model: nn.Module, fabric: Fabric | None, start: Callable[..., tuple[TrainingRun, TrainingState]]
) -> Iterator[Epoch]:
    fabric = launched(fabric)
    with lost_ranks_named(), _as_found(model):
        run, state = start(fabric=fabric)
        epochs = [replace(epoch, resumed=True) for epoch in state.history]
        while True:
            exchange(run)
            model.eval()
            yield from epochs  # a caller who stops here keeps the moving average
            if state.epoch == run.training.epochs:
                if state.kept:
                    model.load_state_dict(state.kept.weights)
                return
            exchange(run)
            if run.frozen is not None and state.epoch >= run.training.frozen_epochs:
                run = set_up(run, None)
            epochs = [_next_epoch(run, state)]


@contextmanager
def _as_found(model: nn.Module) -> Iterator[None]:
    parameter = next(model.parameters(), None)
    home = parameter.device if parameter is not None else None
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with modes_restored(model):
        try:
            yield
        finally:
            for parameter, trains in trained:
                parameter.requires_grad_(trains)
            model.zero_grad()
            model.to(home, memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _next_epoch(run: TrainingRun, state: TrainingState) -> Epoch:
    devices = [run.fabric.device] if run.fabric.device.type == "cuda" else []
    # Each step seeds the global generators, the only ones that dropout uses; fork_rng restores the caller's state.
    with interrupts_noted() as interrupted, torch.random.fork_rng(devices):
        _train(run, state, interrupted)
        epoch = _validated(run, state)
        state.history.append(epoch)
        state.epoch, state.step, state.sums = state.epoch + 1, 0, EpochSums()
        save(run, state)
        if any_rank(run.fabric, interrupted.is_set()):
            raise KeyboardInterrupt
    return epoch


def _train(run: TrainingRun, state: TrainingState, interrupted: Event) -> None:
    """Run the remaining steps of the epoch."""
    training, dataset, fabric = run.training, run.dataset, run.fabric
    if run.frozen is None:
        run.model.train()
        if training.frozen_batch_norm:
            for module in run.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
    else:
        run.model.eval()
        run.frozen.head.train()
    view = None if training.views is None else state.epoch % training.views
    which = {"seed": training.seed, "epoch": state.epoch, "start": state.step}
    which |= {"rank": fabric.global_rank, "world": fabric.world_size}
    feed = batches(
        dataset.train,
        training.batch_size,
        normalization=dataset.normalization,
        augmentation=dataset.augmentation,
        view=view,
        **which,
        device=fabric.device,
        memory_format=FORMATS[training.layout],
    )
    interval = 1 if fabric.device.type == "cpu" and fabric.world_size == 1 else _STEPS_BETWEEN_CHECKS
    # Not in the middle of an accumulation: a saved state has no gradients.
    interval = training.accumulate * -(-interval // training.accumulate)
    rows: list[Tensor] = []
    clock = time.perf_counter()
    places = indices(dataset.train, training.batch_size, **which)
    for x, y in feed:
        if view is not None:
            if len(seen := next(places)) != len(y):
                raise DataError("cached views need all images, but some are broken: remove them, or leave out views")
            run.objective.seeing(seen, view)
        names, row = _step(run, state, x, y)
        rows.append(row)
        state.step += 1
        if state.step % interval == 0 or state.step == run.steps:
            _add_steps(run, state, names, rows)
            rows = []
            now = time.perf_counter()
            state.sums.seconds, clock = state.sums.seconds + now - clock, now
            stop = any_rank(fabric, interrupted.is_set())
            if stop or now - state.saved >= training.save_every_seconds:
                save(run, state)
            if stop:
                raise KeyboardInterrupt
        if run.progress and fabric.is_global_zero:
            run.progress(state.epoch * run.steps + state.step, training.epochs * run.steps)


def _step(run: TrainingRun, state: TrainingState, x: Tensor, y: Tensor) -> tuple[list[str], Tensor]:
    """Run one batch; return the term names and a row: terms times images, hits, number of images.

    The optimizer steps after `training.accumulate` batches, and after the last of the epoch.
    """
    training, optimizer = run.training, run.optimizer
    torch.manual_seed(_seed(training.seed, state.epoch, state.step, run.fabric.global_rank))
    together = Together.of(run, state.step)
    rate = learning_rate(training, state.epoch * run.updates + together.number, training.epochs * run.updates)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(SHARE, 1.0)
    if together.begins:
        optimizer.zero_grad()
    run.objective.before_step(state.epoch + state.step / run.steps)
    with torch.autocast(x.device.type, MIXED.get(training.precision), enabled=training.precision in MIXED):
        loss = _mixed(run, state, x, y) if run.mixing else run.objective(run.forward, x, y)
    # Processes average their gradients once, with the last of the batches.
    alone: Any = run.fabric.no_backward_sync if run.fabric.world_size > 1 and not together.ends else nullcontext
    with alone(run.forward):
        run.fabric.backward(run.scaler.scale(together.weighted(loss.total, len(x))))
    if together.ends:
        _update(run)
    hits = run.task.hits(loss.logits.detach(), run.task.targets(y), len(x))
    named = dict(loss.terms) | {f"{GRADIENT}{name}": size for name, size in loss.gradients.items()}
    terms = [term.detach().float() * len(x) for term in named.values()]
    return list(named), torch.stack([*terms, hits.float(), torch.full_like(hits, len(x)).float()])


def _update(run: TrainingRun) -> None:
    """Step the optimizer with the gradients that have been added up."""
    if run.training.clip_norm:
        run.scaler.unscale_(run.optimizer)
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.training.clip_norm)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.objective.after_step(run.model, run.optimizer)
    if run.average:
        run.average.update_parameters(run.model)


def _mixed(run: TrainingRun, state: TrainingState, x: Tensor, y: Tensor) -> Loss:
    """Compute the loss of a mixed batch; hits count the label with the larger share."""
    x, labels, share = mixed_pairs(x, y, run.mixing, f"{run.training.seed}/{state.epoch}/{state.step}")
    return run.objective.mixed(run.forward, x, labels, share)


def _seed(seed: int, epoch: int, step: int, rank: int) -> int:
    digest = sha256(f"{seed}/{epoch}/step {step}/rank {rank}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def _add_steps(run: TrainingRun, state: TrainingState, names: list[str], rows: list[Tensor]) -> None:
    """Add the last steps to the sums of the epoch; `TrainingDiverged` if one of them has a non-finite loss."""
    sums = summed(run.fabric, torch.stack(rows).cpu().double())
    for step, row in enumerate(sums.tolist(), start=state.step - len(rows)):
        if found := first_nonfinite(names, row):
            raise _diverged(run, f"term {found} at step {step + 1} of {run.steps}", state, step)
        state.sums.add(names, row)


def _diverged(run: TrainingRun, what: str, state: TrainingState, step: int) -> TrainingDiverged:
    done = state.epoch * run.updates + step // run.training.accumulate
    rate = learning_rate(run.training, done, run.training.epochs * run.updates)
    kept = f"; {run.folder} keeps the last good state" if run.folder else ""
    return TrainingDiverged(
        f"training diverged: {what} of epoch {state.epoch + 1}, learning rate {rate:.4g}{kept}; "
        "try a lower learning rate, warm-up epochs or clip_norm"
    )


def _validated(run: TrainingRun, state: TrainingState) -> Epoch:
    """Validate the network and return the metrics of the completed epoch."""
    training, sums = run.training, state.sums
    start = time.perf_counter()
    share_buffers(run.fabric, run.model)
    if run.average:
        share_buffers(run.fabric, run.average)
    result = _validate(run, state)
    kept = (state.kept.epoch, state.kept.metric) if state.kept else (state.epoch + 1, result.score)
    means = {name: value / sums.images for name, value in sums.terms.items()}
    terms = {name: value for name, value in means.items() if not name.startswith(GRADIENT)}
    return Epoch(
        epoch=state.epoch + 1,
        epochs=training.epochs,
        loss=sum(terms.values()),
        terms=terms,
        gradients={name.removeprefix(GRADIENT): means[name] for name in means if name not in terms},
        train_accuracy=100 * sums.hits / sums.images,
        validation_metric=result.score,
        validation_loss=result.loss,
        learning_rate=learning_rate(training, (state.epoch + 1) * run.updates - 1, training.epochs * run.updates),
        seconds=sums.seconds + time.perf_counter() - start,
        images_per_second=sums.images / sums.seconds,
        kept=kept[0],
        kept_metric=kept[1],
    )


def _validate(run: TrainingRun, state: TrainingState) -> Judged:
    """Evaluate the network, or its moving average, and keep its weights if they are the best."""
    if run.judge is None:
        return Judged(math.nan, math.nan, 0)
    exchange(run)
    try:
        found = run.judge(run.model)
        if run.training.keep == "best":
            state.kept = better(state.kept, state.epoch + 1, found.score, run.model, run.metric)
        return found
    except ModelError as error:
        raise _diverged(run, f"on validation images, {error}, at the end", state, run.steps - 1) from error
    finally:
        exchange(run)
