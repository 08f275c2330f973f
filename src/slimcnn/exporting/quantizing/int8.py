"""Quantize a network to int8 within an accuracy limit; a file that exceeds the limit is marked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimcnn.errors import ExportError
from slimcnn.exporting.detection_parity import check_int8_detections, fresh_detections
from slimcnn.exporting.exported import record, refuse_another
from slimcnn.exporting.parity import AT_ONCE, Array, Parity, compare, fresh_answers, plain
from slimcnn.exporting.preparing import PerChannel
from slimcnn.exporting.quantizing.accuracy import PIXEL_ACCURACY, TOP1, Accuracy, ClassJudge, FileJudge, loss_of
from slimcnn.exporting.quantizing.engine import Rows, engines
from slimcnn.exporting.quantizing.file_network import FileNetwork
from slimcnn.exporting.quantizing.float_file import FloatFile, float_file, refuse_calibration
from slimcnn.exporting.quantizing.keeping import MixedFile, Work, search
from slimcnn.exporting.quantizing.quantized import LayerError, Quantized
from slimcnn.exporting.quantizing.speed import SpeedComparison, compare_speed
from slimcnn.exporting.runtimes import open_in
from slimcnn.exporting.source import file_digest, source_digest
from slimcnn.files import part_of
from slimcnn.measuring.environment import cpu_name
from slimcnn.measuring.examples import Example
from slimcnn.measuring.latency import check_threads

INT8 = "_int8"
"""Suffix of int8 files and of their entries in parity.json: model_int8.onnx, onnx_int8."""
COMPARED = 256
"""Number of samples on which a fresh process compares int8 with float."""
LAYERS_ON = 32
"""Number of calibration samples on which layer outputs are compared."""
Labeled = tuple[Tensor, Tensor]
"""Images (as for `images`) and labels (n,)."""
FineTune = Callable[[nn.Module], None]


def quantize(
    model: nn.Module,
    example: Example,
    *,
    out: Path | str,
    images: Tensor | Sequence[Tensor],
    engine: str = "nncf",
    max_drop: float = 0.5,
    validation: Labeled | None = None,
    test: Labeled | None = None,
    judge: FileJudge | None = None,
    normalization: PerChannel | None = None,
    scaling: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
    fine_tune: FineTune | None = None,
    threads: int = 1,
    seconds: float = 2.0,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Quantized:
    """Quantize a network to int8, and recommend the int8 or the float file for this machine.

    Accuracy is measured in the runtime. If int8 loses more than `max_drop`, the most sensitive layers stay in float:
    as few as needed, at most half. If that is not enough, `fine_tune` is called. A file that still loses more is kept,
    with `within` False.

    Args:
        model: any network; it is not changed.
        example: one tensor (n, c, h, w), a sequence of arguments or a mapping of keyword arguments.
        out: the output folder for model.xml and model_int8.xml (or .onnx) and parity.json. An existing float file of
            the same network is reused.
        images: calibration samples, a few hundred: as the network expects them, or uint8 pixels with a normalization.
        engine: engine name (`slimcnn list engines`).
        max_drop: percentage points of top-1 that int8 may lose; of maps of scores, of pixel accuracy; with a judge,
            in the unit of its metric.
        validation: images and labels for choosing the layers. None: use `images`; each one on which int8 and float
            have a different top-1 counts as lost, which is an upper bound.
        test: images and labels, used once at the end.
        judge: the metric of a network that does not classify; see `slimcnn.exporting.quantizing.FileJudge`.
        normalization: x = (pixels / 255 - mean) / std.
        scaling: how pictures became images, stored in the files (as for `export`).
        classes: class names, stored in the float file.
        fine_tune: function that trains a network with simulated int8 in place; only for engines that support it.
        threads: CPU threads for timing.
        seconds: duration of the timing.
        force: replace files of another network in the folder.
        say: called with lines of text about the results.
        progress: called with (done, total) while single layers are tried.

    Raises:
        UnknownName: the engine is unknown.
        ExportError: a package is missing, the calibration images cannot be used, a judge has no labels, or the network
            cannot be exported or returns no scores.
    """
    chosen = engines[engine].value()
    chosen.check(engine, fine_tune is not None)
    folder, source = Path(out), source_digest(model)
    refuse_another(folder, source, force)
    refuse_calibration(example, images, normalization)
    if judge is not None and validation is None:
        raise ExportError("a judge needs labels: give validation=(images, labels)")
    known = float_file(model, example, chosen.format, folder, images, normalization, scaling, classes, say)
    calibration = known.rows(images)
    check_threads(threads)
    asked, labels = validation if validation else (images, None)
    by = judge or ClassJudge()
    measure = _measure(chosen.runtime, known, by, asked, labels)
    with _trial_folder(folder, engine) as place:
        always = chosen.around_layers(known.path) if known.outputs else ()
        work = Work(
            chosen, known.path, place, calibration, known.batch, measure(known.path), measure,
            partial(FileNetwork, chosen.runtime, batch=known.batch, outputs=known.outputs), by.distance, always,
        )  # fmt: skip
        names = tuple(name for name in chosen.layers(known.path) if name not in set(always))
        kept, sensitivity = search(work, names, max_drop, progress)
        lost = work.before.metric.measured_difference(kept.drop)
        say(f"  {len(kept.layers)} of {len(names)} layers in float, {lost} lost")
        tuned = _fine_tuned(work, kept, model, example, fine_tune) if fine_tune and kept.drop > max_drop else None
        kept = tuned or kept
        layers = _layers(work, kept, names, sensitivity)
        files = _placed(chosen.files(kept.path.with_suffix("")), chosen.files(folder / f"model{INT8}"))
    say(f"  timing {known.path.name} and {files[0].name}")
    found = Quantized(
        engine=engine, format=chosen.format, runtime=chosen.runtime, float_path=known.path,
        float_files=chosen.files(known.path.with_suffix("")), float_bytes=known.bytes,
        path=files[0], files=files, bytes=sum(one.stat().st_size for one in files),
        before=work.before, after=kept.accuracy, max_drop=max_drop, labels=labels is not None, layers=layers,
        parity=_parity(chosen.runtime, known, files[0], known.rows([one[:COMPARED] for one in _listed(asked)])),
        speed=_speed(chosen.runtime, known, files[0], calibration, threads, seconds),
        calibrated_on=len(calibration[0]), distance_name=by.distance_name, fine_tuned=tuned is not None,
    )  # fmt: skip
    if test is not None:
        measure = _measure(chosen.runtime, known, by, *test)
        found = replace(found, test=(measure(known.path), measure(found.path)))
    found = replace(found, entry=_entry(found, source, known.facts))
    record(folder, chosen.format + INT8, found.entry)
    say(f"  {found}")
    say(f"  {found.advice}")
    return found


@contextmanager
def _trial_folder(folder: Path, engine: str) -> Iterator[Path]:
    """A temporary folder for trial files."""
    temporary = part_of(folder / f"quantize_{engine}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _measure(
    runtime: str, known: FloatFile, judge: FileJudge, asked: Tensor | Sequence[Tensor], labels: Tensor | None
) -> Callable[[Path], Accuracy]:
    """Return a function that measures accuracy against the labels or, if None, the float file's predictions."""
    x = _listed(asked)
    if labels is not None and len(labels) < len(x[0]):
        raise ExportError(f"{len(x[0])} images have {len(labels)} labels: give one label per image")
    if labels is None:
        assert isinstance(judge, ClassJudge)
        right = judge.answers(known.network(runtime, known.path), x)
    else:
        right = labels[: len(x[0])].cpu()
    return lambda path: judge.accuracy(known.network(runtime, path), x, right)


def _listed(samples: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [samples] if isinstance(samples, Tensor) else list(samples)


def _fine_tuned(
    work: Work, kept: MixedFile, model: nn.Module, example: Example, fine_tune: FineTune
) -> MixedFile | None:
    """Train a network with simulated int8 and write it; None if it loses no less than `kept`."""
    simulated = work.engine.simulated(model, example, work.calibration)
    fine_tune(simulated)
    stem = work.folder / "trained"
    work.engine.write_trained(simulated, example, work.source, stem)
    path = work.engine.files(stem)[0]
    accuracy = work.judge(path)
    drop = loss_of(work.before, accuracy)[0]
    return MixedFile(path, (), accuracy, drop) if drop < kept.drop else None


def _layers(
    work: Work, kept: MixedFile, names: Sequence[str], sensitivity: Mapping[str, float]
) -> tuple[LayerError, ...]:
    """Compare each layer's output in float and int8, one batch at a time because all activations are large."""
    engine, size = work.engine, work.batch or 1
    n = max(min(len(work.calibration[0]), LAYERS_ON) // size, 1) * size
    before, after = (engine.outputs(path, names) for path in (work.source, kept.path))
    sums: dict[str, Array] = {}
    for start in range(0, n, size):
        few = tuple(one[start : start + size] for one in work.calibration)
        whole, found = before(few), after(few)
        for name in found:
            y, z = whole[name].astype(np.float64), found[name].astype(np.float64)
            if y.shape == z.shape:
                sums[name] = sums.get(name, np.zeros(2)) + np.array([((y - z) ** 2).sum(), (y**2).sum()])
    return tuple(
        LayerError(
            layer=name,
            error=float(np.sqrt(sums[name][0] / max(sums[name][1], 1e-30))) if name in sums else None,
            sensitivity=sensitivity.get(name),
            kept=name in kept.layers,
        )
        for name in names
    )


def _placed(made: Sequence[Path], places: Sequence[Path]) -> tuple[Path, ...]:
    for path, place in zip(made, places, strict=True):
        os.replace(path, place)
    return tuple(places)


def _speed(runtime: str, known: FloatFile, path: Path, samples: Rows, threads: int, seconds: float) -> SpeedComparison:
    calls = [open_in(runtime, one, threads).predict for one in (known.path, path)]
    one_call = [one[: known.batch or 1] for one in samples]
    return compare_speed(calls, one_call, seconds=seconds, threads=threads, runtime=runtime)


def _parity(runtime: str, known: FloatFile, path: Path, samples: Rows) -> Parity:
    """Compare int8 with float in a fresh process; the tolerance is twice the measured error."""
    given = [torch.from_numpy(one) for one in samples]
    if known.outputs:
        expected = fresh_detections(runtime, known.path, given, known.outputs)
        parity = check_int8_detections(runtime, path, given, expected)
        return replace(parity, tolerance=2 * (parity.detections_apart or 0.0))
    whole = fresh_answers(runtime, known.path, given, known.batch or AT_ONCE)
    found = fresh_answers(runtime, path, given, known.batch or AT_ONCE)
    error = compare(whole, found).max_error
    return compare(whole, found, tolerance=2 * error) if error else compare(whole, found)


def _entry(found: Quantized, source: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of an int8 file in parity.json."""
    lost, error = loss_of(found.before, found.after)
    metric = found.before.metric
    measured = {TOP1: "top1", PIXEL_ACCURACY: "pixel_accuracy"}.get(metric, "metric")
    named = asdict(metric) if measured == "metric" else {}
    entry = plain(found.parity) | {
        "runtime": found.runtime, "engine": found.engine,
        "files": {path.name: file_digest(path) for path in found.files}, "bytes": found.bytes, "source": source,
        measured: named | {
            "before": found.before.value, "after": found.after.value, "images": found.after.n, "drop": lost,
            "standard_error": error, "max_drop": found.max_drop, "within": found.within,
            "against": "labels" if found.labels else "answers in float",
        },
        "calibration_images": found.calibrated_on, "kept_in_float": list(found.kept), "fine_tuned": found.fine_tuned,
        "speed": asdict(found.speed) | {"int8_is": found.speed.verdict, "cpu": cpu_name()}, "ship": found.ship.name,
        "facts": dict(facts),
    }  # fmt: skip
    if found.test is not None:
        before, after = found.test
        entry[f"test_{measured}"] = {"before": before.value, "after": after.value, "images": after.n}
    return entry
