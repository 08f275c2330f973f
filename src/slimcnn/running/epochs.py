"""Training inside a step: the loop, told epoch by epoch, and the section about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from slimcnn.objectives import Objective
from slimcnn.reporting.figures.training import EpochPoint, TrainingCurves
from slimcnn.reporting.sections import Column, Section, Table, Text
from slimcnn.running.step import Context, State
from slimcnn.training import Epoch, Training, fit


def learn(
    model: nn.Module,
    state: State,
    training: Training,
    at: Context,
    verb: str,
    objective: Objective | None = None,
    after_epoch: Callable[[Epoch], None] = lambda _: None,
) -> list[Epoch]:
    """Train a network in place on a state's data; killed and called again, it goes on to the bit."""
    training = at.decide(training, model, state.data)
    at.show.say(f"{verb}: {count(training.epochs, 'epoch')} on {len(state.data.train):,} images")
    found = []
    for epoch in fit(
        model, state.data, training=training, objective=objective, folder=at.folder / "training", fabric=at.fabric,
        progress=at.show.counting(verb),
    ):  # fmt: skip
        again = " (from before)" if epoch.resumed else ""
        if epoch.resumed:
            at.resumed.append(epoch.seconds)
        at.show.say(
            f"  epoch {epoch.epoch}/{epoch.epochs}: loss {epoch.loss:.3f}, validation top-1 "
            f"{epoch.validation_top1:.2f} %, {epoch.images_per_second:.0f} images/s{again}"
        )
        after_epoch(epoch)
        found.append(epoch)
    return found


def count(n: int, noun: str) -> str:
    """Say how many.

    >>> count(1, "epoch"), count(3, "epoch")
    ('1 epoch', '3 epochs')
    """
    return f"{n:,} {noun}{'s' * (n != 1)}"


def about_training(title: str, what: str, epochs: Sequence[Epoch], level: float | None) -> Section:
    """Say how a training went; `level` is the validation top-1 that it is compared with."""
    last = epochs[-1]
    rows = [
        (e.epoch, e.loss, e.train_top1, e.validation_top1, e.learning_rate, e.seconds, *e.terms.values())
        for e in epochs
    ]  # fmt: skip
    columns = [
        Column(title="epoch", format="exact"), Column(title="loss", format="small"),
        Column(title="training top-1, %", format="percent"), Column(title="validation top-1, %", format="percent"),
        Column(title="learning rate", format="small"), Column(title="time", format="seconds"),
        *(Column(title=term, format="small") for term in last.terms),
    ]  # fmt: skip
    figure = TrainingCurves(
        epochs=tuple(EpochPoint(**{name: getattr(e, name) for name in EpochPoint.model_fields}) for e in epochs),
        level=level,
    )
    return Section(
        title=title,
        blocks=(
            Text(text=f"{what}. Training top-1 is on augmented images."),
            figure.block(),
            Table(columns=tuple(columns), rows=tuple(rows), title="Every epoch in numbers", folded=True),
        ),
    )


def training_of(settings: Training, **changes: object) -> Training:
    """The training settings within a step's."""
    return Training.model_validate(settings.model_dump(include=set(Training.model_fields)) | changes)
