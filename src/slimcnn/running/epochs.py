"""Training inside a step: the loop with progress output, and the report section."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from slimcnn.objectives import Objective
from slimcnn.reporting.figures.training import EpochPoint, TrainingCurves
from slimcnn.reporting.sections import Column, Section, Table, Text
from slimcnn.running.loading import skipped_in_words
from slimcnn.running.step import Context, State
from slimcnn.tasks import Metric, task_of
from slimcnn.training import Epoch, NamedMetric, Training, fit
from slimcnn.training.keeping import TOP1


def learn(
    model: nn.Module,
    state: State,
    training: Training,
    at: Context,
    verb: str,
    objective: Objective | None = None,
    after_epoch: Callable[[Epoch], None] = lambda _: None,
    validation: NamedMetric | None = None,
) -> list[Epoch]:
    """Train a network in place; if interrupted and called again, it resumes with bit-identical results.

    `validation` measures the network after every epoch; default: the metric of the task, on the validation images.
    """
    training = at.decide(training, model, state.data)
    at.show.say(f"{verb}: {count(training.epochs, 'epoch')} on {len(state.data.train):,} images")
    metric = validation.metric if validation else task_of(state.data).metric
    found, skipped = [], len(state.data.broken)
    for epoch in fit(
        model, state.data, validation=validation, training=training, objective=objective, folder=at.folder / "training",
        fabric=at.fabric, progress=at.show.counting(verb),
    ):  # fmt: skip
        resumed = " (resumed)" if epoch.resumed else ""
        at.show.say(
            f"  epoch {epoch.epoch}/{epoch.epochs}: loss {epoch.loss:.3f}, validation {metric.name} "
            f"{metric.written(epoch.validation_metric)}, {epoch.images_per_second:.0f} images/s{resumed}"
        )
        if epoch.resumed:
            at.resumed.append(epoch.seconds)
        else:
            scalars = epoch.scalars(metric.name)
            at.show.log({name if name == "epoch" else f"{at.folder.name}/{name}": x for name, x in scalars.items()})
        if len(state.data.broken) > skipped:
            skipped = len(state.data.broken)
            at.show.say(skipped_in_words(state.data))
        after_epoch(epoch)
        found.append(epoch)
    at.show.say(f"  {kept_in_words(found[-1], metric)}")
    return found


def kept_in_words(last: Epoch, metric: Metric = TOP1) -> str:
    """Say which weights a finished training has kept, from its last epoch."""
    if not last.kept:
        return (
            f"kept the start, validation {metric.name} {metric.written(last.kept_metric)}: no epoch was better; try a "
            "lower learning rate, or leave the step out"
        )
    reached = f"validation {metric.name} {metric.written(last.kept_metric)}"
    return f"kept epoch {last.kept} of {last.epochs}, {reached}"


def count(n: int, noun: str) -> str:
    """Return a count with its noun.

    >>> count(1, "epoch"), count(3, "epoch")
    ('1 epoch', '3 epochs')
    """
    return f"{n:,} {noun}{'s' * (n != 1)}"


def about_training(
    title: str, what: str, epochs: Sequence[Epoch], level: float | None, metric: Metric = TOP1
) -> Section:
    """Return the report section about a training; `level` is the validation metric of the reference."""
    last = epochs[-1]
    counted = last.train_accuracy == last.train_accuracy  # NaN: nothing is right or wrong in training
    rows = [
        (
            e.epoch, e.loss, *([e.train_accuracy] if counted else []), e.validation_metric, e.learning_rate, e.seconds,
            *e.terms.values(),
        )
        for e in epochs
    ]  # fmt: skip
    named = f"{metric.name}, {metric.unit}".rstrip(", ")
    trained = f"training {named}" if metric == TOP1 else "right in training, %"
    columns = [
        Column(title="epoch", format="exact"), Column(title="loss", format="small"),
        *([Column(title=trained, format="percent")] if counted else []),
        Column(title=f"validation {named}", format="percent" if metric.unit == "%" else "small"),
        Column(title="learning rate", format="small"), Column(title="time", format="seconds"),
        *(Column(title=term, format="small") for term in last.terms),
    ]  # fmt: skip
    figure = TrainingCurves(
        epochs=tuple(EpochPoint(**{name: getattr(e, name) for name in EpochPoint.model_fields}) for e in epochs),
        level=level,
        kept=last.kept,
        metric=named,
    )
    said = kept_in_words(last, metric)
    measured = "Training top-1" if metric == TOP1 else "What is right in training"
    return Section(
        title=title,
        blocks=(
            Text(text=f"{what}. {measured} is measured on augmented images." if counted else f"{what}."),
            Text(text=f"{said[0].upper()}{said[1:]}.", tone="plain" if last.kept else "bad"),
            figure.block(),
            Table(columns=tuple(columns), rows=tuple(rows), title="All epochs", folded=True),
        ),
    )


def training_of(settings: Training, **changes: object) -> Training:
    """Return the training settings contained in the settings of a step."""
    return Training.model_validate(settings.model_dump(include=set(Training.model_fields)) | changes)
