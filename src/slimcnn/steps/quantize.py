"""Quantization to int8 for a runtime."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator
from torch import nn

from slimcnn.distillation import Teacher
from slimcnn.errors import DataError, ExportError, RecipeError
from slimcnn.exporting import RUNTIMES, read_parity, record, source_digest
from slimcnn.exporting.quantizing import INT8, Quantized, engines, loss_of, quantize
from slimcnn.manifest import RUN
from slimcnn.measuring.latency import MOST_THREADS
from slimcnn.reporting.formatting import plural
from slimcnn.reporting.outcome import MetricName
from slimcnn.reporting.sections import Column, Section, Table, Text
from slimcnn.running.epochs import about_training, learn
from slimcnn.running.int8_judge import judge_of
from slimcnn.running.step import Artifact, Context, State, Step, steps
from slimcnn.training import Epoch, Training
from slimcnn.training.processes import from_rank_zero

LOSS = "0.1*cross_entropy+0.9*kd:temperature=4"
"""Loss of fine-tuning; the teacher is the reference network."""
MAX_DROP = 0.5
"""Percentage points that int8 may lose unless told otherwise."""
VALIDATION = 2000
"""Number of validation images for the choice of float layers."""
TESTED = 10_000
"""Maximum number of test images: they are decoded into memory."""


@steps.add("quantize", source="NNCF, github.com/openvinotoolkit/nncf; ONNX Runtime")
class Quantize(Step):
    """Quantize the trained network to int8; sensitive layers stay in float."""

    needs: ClassVar = {"trained": "int8 needs trained weights: give --weights FILE, or put train in front"}

    engine: str = "nncf"
    """The quantization engine (slimcnn list engines)."""
    max_drop: float | None = Field(default=None, ge=0)
    """Largest loss of the validation metric in the runtime, in its unit; layers stay in float until it is met. None:
    0.5 percentage points; a metric in another unit needs a number."""
    images: int = Field(default=300, ge=1)
    """Number of training images for calibration; labels are not used."""
    epochs: int = Field(default=0, ge=0)
    """Epochs of quantization-aware fine-tuning if post-training int8 loses more than max_drop; engine nncf."""
    learning_rate: float = Field(default=0.001, gt=0)
    """Peak learning rate of fine-tuning."""
    threads: int = Field(default=1, ge=1, le=MOST_THREADS)
    """CPU threads for timing float and int8."""
    seconds: float = Field(default=2.0, gt=0)
    """Duration of the timing in seconds."""

    @model_validator(mode="after")
    def _possible(self) -> Quantize:
        engines[self.engine]
        return self

    def rehearse(self, state: State) -> nn.Module:
        """Check that the engine's packages are installed, and that the loss is limited in the metric's unit."""
        self.allowed(state)
        if self.epochs and not state.task.loss_of_answers:
            raise ExportError(f"int8 fine-tuning of {state.data.task} is not supported: leave epochs out")
        engines[self.engine].value().check(self.engine, fine_tune=self.epochs > 0)
        if state.data.ready:
            raise DataError(
                f"quantize needs the pixels of images, but {state.data.name} returns tensors that are normalized: "
                "return PIL images or uint8 tensors (c, h, w)"
            )
        return state.model

    def allowed(self, state: State) -> float:
        """Return the largest loss allowed; `RecipeError` if the metric's unit has no default."""
        metric = state.task.metric
        if self.max_drop is None and metric.unit != "%":
            worse = "fall" if metric.higher_is_better else "rise"
            raise RecipeError(f"quantize needs max_drop: by how much the {metric.name} may {worse} in int8")
        return MAX_DROP if self.max_drop is None else self.max_drop

    def run(self, state: State, at: Context) -> tuple[State, Sequence[Section]]:
        """Write the float and the int8 file into the step's folder; the network does not change."""
        self.rehearse(state)
        if self.epochs and at.fabric.world_size > 1:
            raise ExportError("int8 fine-tuning runs in one process only: leave --devices or epochs out")
        told: list[Epoch] = []
        root = next(parent for parent in at.folder.parents if (parent / RUN).exists())
        found = from_rank_zero(at.fabric, lambda: self._written(state, at, root, told))
        entries = {found.format: read_parity(at.folder)[found.format], found.format + INT8: dict(found.entry)}
        paths = {found.format: found.float_path, found.format + INT8: found.path}
        made = [Artifact(name, paths[name].relative_to(root).as_posix(), entries[name]) for name in entries]
        others = tuple(one for one in state.artifacts if one.name not in entries)
        sections = [about_quantized(found)]
        if told:
            what = f"Distilled from the reference, loss {LOSS}"
            sections.append(about_training("Int8 fine-tuning", what, told, None))
        return replace(state, artifacts=(*others, *made)), sections

    def _written(self, state: State, at: Context, root: Path, told: list[Epoch]) -> Quantized:
        """Quantize the file that an earlier step exported from this network, if there is one, else a new export."""
        to, source = engines[self.engine].value.format, source_digest(state.model)
        for one in state.artifacts:
            if one.name == to and one.facts.get("source") == source:
                for name in one.facts["files"]:
                    shutil.copyfile((root / one.path).with_name(name), at.folder / name)
                record(at.folder, to, one.facts)
        return self.quantized(state, at, at.folder, told)

    def quantized(self, state: State, at: Context, out: Path, told: list[Epoch], force: bool = True) -> Quantized:
        """Write the files into `out`; epochs of fine-tuning are appended to `told`."""
        data = state.data
        validation = data.validation.limit(VALIDATION).in_memory()

        test = data.test.limit(TESTED).in_memory()

        def fine_tune(simulated: nn.Module) -> None:
            # Quantizers support float32 and one layout, so the timed choice of layout and precision is skipped.
            training = Training(epochs=self.epochs, learning_rate=self.learning_rate, layout="nchw", precision="32")
            objective = state.task.distilling(LOSS, Teacher([state.reference]))
            told.extend(learn(simulated, state, training, at, "int8 fine-tuning", objective))

        return quantize(
            state.model, state.example, out=out, images=data.train.limit(self.images).in_memory().pixels,
            engine=self.engine, max_drop=self.allowed(state), validation=(validation.pixels, validation.labels),
            test=(test.pixels, test.labels), judge=judge_of(state.task, data), normalization=data.normalization,
            scaling=data.scaling.stated(), classes=data.classes, fine_tune=fine_tune if self.epochs else None,
            threads=self.threads, seconds=self.seconds, force=force, say=at.show.say,
            progress=at.show.counting("testing layers in float"),
        )  # fmt: skip


def about_quantized(found: Quantized) -> Section:
    """Report int8 against float: accuracy, bytes, latency, layers, and which file to ship."""
    lost, error = loss_of(found.before, found.after)
    metric = found.before.metric
    title = RUNTIMES[found.runtime].title
    judged = f"Validation {metric.name}" if found.labels else "Agreement with float on calibration images"
    scatter = f"standard error {error:.2f}, " if error is not None else ""
    tuned = ", then fine-tuned" if found.fine_tuned else ""
    lead = (
        f"Quantized by {engines[found.engine].value.title} on {found.calibrated_on:,} images without labels{tuned}. "
        f"{judged} in {title}: {metric.measured_difference(lost)} lost ({scatter}{found.after.n:,} images), "
        f"{found.max_drop:g} allowed. {len(found.kept)} of {len(found.layers)} layers stay in float."
    )
    if not found.within:
        lead += " The loss is too large: ship the float file."
    blocks = (
        Text(text=lead),
        Text(text=f"{found.advice[0].upper()}{found.advice[1:]}.", tone="good" if found.within else "bad"),
        Text(text=f"{str(found.speed)[0].upper()}{str(found.speed)[1:]}; {plural(found.speed.n, 'round')}, batch "
             f"{found.speed.batch}, {plural(found.speed.threads, 'thread')}, {title}.", tone="note"),
        _files(found), _layers(found),
    )  # fmt: skip
    return Section(title="Int8", blocks=blocks)


def _files(found: Quantized) -> Table:
    tests = [one.value for one in found.test] if found.test else [None, None]
    name = MetricName.of(found.before.metric)
    kind: Any = "percent" if name.unit == "%" else "small"
    columns = (
        Column(title="file", format="name"),
        Column(title=f"validation {name.title}" if found.labels else "agreement, %", format=kind),
        Column(title=f"test {name.title}", format=kind), Column(title="bytes", format="exact"),
        Column(title="ms", format="milliseconds"), Column(title="quartiles", format="milliseconds"),
        Column(title="", format="milliseconds"),
    )  # fmt: skip
    rows = (
        (found.float_path.name, found.before.value, tests[0], found.float_bytes, found.speed.float_ms[1],
         found.speed.float_ms[0], found.speed.float_ms[2]),
        (found.path.name, found.after.value, tests[1], found.bytes, found.speed.int8_ms[1],
         found.speed.int8_ms[0], found.speed.int8_ms[2]),
    )  # fmt: skip
    return Table(columns=columns, rows=rows)


def _layers(found: Quantized) -> Table:
    columns = (
        Column(title="layer", format="name"),
        Column(title="relative output error", format="small"),
        Column(title=f"{found.distance_name}, saved in float", format="small"),
        Column(title="precision"),
    )
    rows = tuple((one.layer, one.error, one.sensitivity, "float" if one.kept else "int8") for one in found.layers)
    return Table(columns=columns, rows=rows, title=f"{len(rows)} layers in int8 against float", folded=True)
