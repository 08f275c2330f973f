"""Knowledge distillation: train with a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import Field, model_validator
from torch import nn

from slimcnn.datasets import Dataset, batches
from slimcnn.distillation import LastFeatures, Teacher
from slimcnn.distillation.closeness import TEMPERATURE, closeness_of, closest_pairs
from slimcnn.distillation.terms import features_compared, names_in, parts_of, without_term
from slimcnn.errors import RecipeError
from slimcnn.graph.copying import duplicate
from slimcnn.objectives import Objective
from slimcnn.reporting.figures.closeness import Closeness
from slimcnn.reporting.sections import Column, Section, Table, Value
from slimcnn.running.compared import CLIP, NOT_COMPARED, compared_features, in_words
from slimcnn.running.epochs import about_training, count, learn, training_of
from slimcnn.running.loading import check_output, load_network, refuse_unnamed
from slimcnn.running.normalization import adapt, described, find_normalization, stored_in
from slimcnn.running.rates import RateChoice, rate_for
from slimcnn.running.settings import Data, Network
from slimcnn.running.step import Context, Facts, State, Step, steps
from slimcnn.show import SILENT, Show
from slimcnn.training import Training
from slimcnn.training.settings import LEARNING_RATES

RECOVERING, LEARNING = 0.01, 0.05
"""Learning rates of SGD: for a trained network, and for one without weights."""

LOSS = "0.1*cross_entropy+0.9*kd:temperature=4"
WITH_FEATURES = f"{LOSS}+0.3*features"
"""The loss by default, and where the features before the last layer can be compared."""

ANSWERS = "teacher.npy"


@steps.add("distill", source="Hinton, Vinyals, Dean 2015, arXiv 1503.02531; losses: slimcnn list losses")
class Distill(Step, Training):
    """Train with the reference network, or networks of your choice, as the teacher."""

    gives = frozenset({"trained"})
    loses = frozenset({"origin", "cut", "constants", "refitted"})
    trains = True
    remedy = "use a lower learning rate, or keep the best epoch (--keep best)"

    loss: str | None = None
    """Sum of loss terms (`slimcnn list losses`), such as kd+scale_factor; default:
    0.1*cross_entropy+0.9*kd:temperature=4, and +0.3*features where the network's channels are the reference's
    (no student; not with teacher_cache, which stores only answers)."""
    teachers: tuple[Network, ...] = ()
    """Additional teachers; with several teachers, their logits are averaged."""
    with_reference: bool = True
    """Use the reference, the network before compression, as a teacher."""
    student: Network | None = None
    """The network to train; default: the network from the steps before."""
    teacher_cache: int | None = Field(default=None, ge=1)
    """Number of fixed augmented views per image; the teacher's logits are computed once per view and stored on disk."""
    images: int | None = Field(default=None, ge=1)
    """Number of training images, drawn evenly from the classes; default: all. The loss 0*cross_entropy+kd reads no
    labels of theirs; choosing the epoch and the learning rate reads those of the validation images."""
    epochs: int = Field(default=10, ge=1)
    """Passes over the training images."""
    learning_rate: float | None = None  # type: ignore[assignment]
    """Peak learning rate; default 0.05 for a student without weights (adamw: 0.001). For a trained network, 0.01
    (adamw: 0.001), 0.3 or 0.1 of it: the largest that does not worsen the validation metric in a short look."""

    @model_validator(mode="after")
    def _possible(self) -> Distill:
        if any(weight == 0 and build is not None for weight, build, _ in parts_of(self.loss or LOSS)):
            raise ValueError(f"loss {self.loss!r}: a term with weight 0 is computed, but changes nothing: leave it out")
        compared = features_compared(self.loss or LOSS)
        if self.teacher_cache is not None and compared:
            raise ValueError(
                f"loss {self.loss!r}: teacher_cache stores answers, which are not enough for {' and '.join(compared)}: "
                "leave teacher_cache out, or choose losses that compare answers, such as kd"
            )
        for network in self._others:
            refuse_unnamed(network)
        if not (self.with_reference or self.teachers):
            raise ValueError("there is no teacher: give teachers, or leave with_reference out")
        if "features" in names_in(self.loss or LOSS) and not self._made_from_its_teacher:
            raise ValueError(
                f"loss {self.loss!r}: features are compared with those of the reference that the network was made "
                "from: leave features out, or give neither student nor with_reference=false"
            )
        return self

    @property
    def _made_from_its_teacher(self) -> bool:
        return self.with_reference and self.student is None

    @property
    def _others(self) -> tuple[Network, ...]:
        return (*([self.student] if self.student else []), *self.teachers)

    def needed(self) -> Mapping[str, str]:
        """A reference network, if it is a teacher."""
        if not self.with_reference:
            return {}
        return {"reference": "there is no trained network as teacher: give --weights FILE, or put train in front"}

    def after(self, facts: Facts) -> Facts:
        """Return the facts; a separate student has no relations or reuse units."""
        return super().after(facts - {"relations", "units"} if self.student is not None else facts)

    def rehearse(self, state: State) -> nn.Module:
        """Check the loss, the teachers and the student."""
        if self.teacher_cache is not None and state.data.task != "classification":
            raise RecipeError(f"teacher_cache stores logits of images, and this is {state.data.task}: leave it out")
        if state.data.task != "classification":  # a task may refuse a loss that compares classes
            state.task.distilling(without_term(self.loss or LOSS, "features") or LOSS, Teacher(state.reference))
        for network in self._others:
            check_output(load_network(network, state.data)[0], state.data)
        return load_network(self.student, state.data)[0] if self.student else state.model

    def run(self, state: State, at: Context) -> tuple[State, Sequence[Section]]:
        """Train a copy of the network, or the student."""
        self.rehearse(state)
        student = self._student(state, at)
        some = state.on_images(self.images, self.seed)
        trained = bool(self.student.weights) if self.student else "trained" in at.facts
        rate = self.learning_rate or LEARNING_RATES.get(self.optimizer, RECOVERING if trained else LEARNING)
        training = training_of(self, learning_rate=rate, label_smoothing=0.0)  # the objective does the smoothing
        others = [_teacher(other, state.data, at.show) for other in self.teachers]
        taught_by = [*([state.reference] if self.with_reference else []), *others]
        choice = RateChoice(rate=rate)
        loss, where = self._compared(student, state, at.facts)
        if where is not None:
            training = training.model_copy(update={"clip_norm": training.clip_norm or CLIP})
        if trained and self.learning_rate is None:

            def objective_of_a_trial(_: Training) -> Objective:
                return state.task.distilling(loss, Teacher(taught_by, compared=where), self.label_smoothing)

            choice = rate_for(student, some.data, training, at, objective_of_a_trial)
            training = training.model_copy(update={"learning_rate": choice.rate})
        teacher = Teacher(taught_by, compared=where)
        if self.teacher_cache is not None:
            views = min(self.teacher_cache, self.epochs)  # an epoch uses one view: further ones are never seen
            training = training.model_copy(update={"views": views})
            teacher = teacher.cached(at.folder / ANSWERS, len(some.data.train), views)
        objective = state.task.distilling(loss, teacher, self.label_smoothing)
        epochs = learn(student, some, training, at, "distilling", objective)
        aim = "" if where is None else f" ({in_words(where)}, error in percent of the variance)"
        what = f"{count(self.epochs, 'epoch')} of distillation, loss {objective}{aim}, {choice}"
        sections = [about_training("Distillation", what, epochs, at.level, state.task.metric)]
        after = replace(state, model=student, origin=None)
        if self.student is None:
            return after, sections
        if state.data.task == "classification":
            sections.append(_closeness(state, student))
        return replace(after, network=self.student, kept=None), sections

    def _student(self, state: State, at: Context) -> nn.Module:
        """Return a copy of the network, or the student, with a warning if it expects another normalization."""
        if self.student is None:
            return duplicate(state.model)
        student, stated = load_network(self.student, state.data)
        own, used = stored_in(stated), state.data.normalization
        if own not in (None, used):
            at.show.say(
                f"WARNING: the student's checkpoint expects {described(own)}, but the student is trained with "
                f"{described(used)}, as the reference: its accuracy starts lower; to keep its own, make it the network "
                "of the run (--weights), and give the reference in teachers, with with_reference=false"
            )
        return student

    def _compared(self, student: nn.Module, state: State, facts: Facts) -> tuple[str, LastFeatures | None]:
        """Return the loss, and the features that it compares if it compares some."""
        loss = self.loss or (WITH_FEATURES if self.teacher_cache is None else LOSS)
        if "features" not in names_in(loss):
            return loss, None
        possible = self._made_from_its_teacher and state.task.compares_features and "trained" in facts
        where = compared_features(student, state) if possible else None
        if where is not None:
            return loss, where
        if self.loss is not None:
            raise RecipeError(f"distill: loss {self.loss!r}: {NOT_COMPARED}: leave features out")
        return LOSS, None


def _teacher(network: Network, data: Dataset, show: Show = SILENT) -> nn.Module:
    """Load an additional teacher; it takes the run's images, even if it expects another normalization.

    What it expects is found like for the network of a run: stated by its checkpoint, or found on validation images.
    """
    model, information = load_network(network, data)
    own, how = find_normalization(model, network, Data(name=data.name), data, information)
    if own != data.normalization:
        name = network.weights or network.model
        show.say(f"  teacher {name} gets images with its own normalization, {described(own)}, {how}")
    return adapt(model, own, data.normalization)


def _closeness(state: State, student: nn.Module) -> Section:
    data = state.data
    found = {
        name: closeness_of(network, batches(data.validation, 256, normalization=data.normalization), len(data.classes))
        for name, network in (("teacher", state.reference), ("student", student))
    }
    figure = Closeness(classes=data.classes, networks=found, temperature=TEMPERATURE, images=len(data.validation))
    columns = (
        Column(title="images of"),
        Column(title="other class"),
        Column(title="log ratio, teacher", format="small"),
        Column(title="student", format="small"),
    )
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (one, other, *ratios) for one, other, ratios in closest_pairs(data.classes, found, 6)
    )
    return Section(title="Class closeness", blocks=(figure.block(), Table(columns=columns, rows=rows)))
