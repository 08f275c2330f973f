"""Keep layers in float until int8 loses no more accuracy than allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimcnn.exporting.parity import AT_ONCE
from slimcnn.exporting.quantizing.accuracy import Accuracy, loss_of
from slimcnn.exporting.quantizing.engine import Engine, Rows

MOST = 0.5
"""Largest share of layers in float; with more, int8 gains little."""
PROBE, PROBE_VALUES = 64, 2_000_000
"""Most calibration samples for the trial of one layer, and most numbers in them; each trial is a quantization."""
PROBED, PROBED_VALUES = 256, 10_000_000
"""The same of the samples whose outputs are compared with float."""
FEWEST = 8
"""Samples for a trial, however large they are."""


@dataclass(frozen=True)
class MixedFile:
    """An int8 file with some layers in float."""

    path: Path
    """The file to open."""
    layers: tuple[str, ...]
    """Layers in float."""
    accuracy: Accuracy
    drop: float


@dataclass(frozen=True)
class Work:
    """Input, folder and accuracy measure of a quantization."""

    engine: Engine
    source: Path
    """The float file."""
    folder: Path
    """For trial files."""
    calibration: Rows
    batch: int | None
    """The file's batch size; None: any."""
    before: Accuracy
    """Accuracy of the float file."""
    judge: Callable[[Path], Accuracy]
    opened: Callable[[Path], nn.Module]
    """Opens a file in its runtime, for samples in its own format."""
    distance: Callable[[Any, Any], float]
    """How far answers in int8 are from those in float, see `FileJudge`."""
    always: tuple[str, ...] = ()
    """Operations that are in float in every file."""

    def kept(self, layers: tuple[str, ...]) -> MixedFile:
        """Quantize all layers except these."""
        stem = self.folder / f"keep{len(layers)}"
        self.engine.write(self.source, stem, self.calibration, self.batch, (*layers, *self.always))
        path = self.engine.files(stem)[0]
        accuracy = self.judge(path)
        return MixedFile(path, layers, accuracy, loss_of(self.before, accuracy)[0])


def search(
    work: Work, layers: tuple[str, ...], max_drop: float, progress: Callable[[int, int], None]
) -> tuple[MixedFile, Mapping[str, float]]:
    """Find the fewest layers to keep in float, most sensitive first; also return the sensitivities, if measured.

    The number is doubled until the loss is within `max_drop` or half of the layers are in float, and then bisected.
    If no file is within `max_drop`, the one with the smallest loss is returned.
    """
    whole = work.kept(())
    if whole.drop <= max_drop or not layers:
        return whole, {}
    found = sensitivities(work, layers, progress)
    order = sorted(found, key=lambda layer: -found[layer])
    tried = {0: whole}

    def attempt(count: int) -> bool:
        tried[count] = work.kept(tuple(order[:count]))
        return tried[count].drop <= max_drop

    most = max(int(MOST * len(layers)), 1)
    too_few, enough = 0, 1
    while not attempt(enough):
        if enough == most:
            return min(tried.values(), key=lambda one: (one.drop, len(one.layers))), found
        too_few, enough = enough, min(2 * enough, most)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if attempt(middle):
            enough = middle
        else:
            too_few = middle
    return tried[enough], found


def sensitivities(work: Work, layers: tuple[str, ...], progress: Callable[[int, int], None]) -> dict[str, float]:
    """Return how much the distance from float falls with each layer in float; needs no labels."""
    few = probes(work.calibration, PROBE, PROBE_VALUES, work.batch)
    asked = probes(work.calibration, PROBED, PROBED_VALUES, work.batch)
    expected = _answers(work, work.source, asked)

    def distance_with(keep: tuple[str, ...]) -> float:
        stem = work.folder / "one"
        work.engine.write(work.source, stem, few, work.batch, (*keep, *work.always))
        found = _answers(work, work.engine.files(stem)[0], asked)
        return sum(work.distance(y, z) for y, z in zip(expected, found, strict=True)) / len(expected)

    whole = distance_with(())
    found = {}
    for number, layer in enumerate(layers):
        progress(number, len(layers))
        found[layer] = whole - distance_with((layer,))
    progress(len(layers), len(layers))
    return found


def _answers(work: Work, path: Path, samples: Rows) -> list[Any]:
    """Return a file's answers for samples, a batch at a time."""
    network, size = work.opened(path), work.batch or AT_ONCE
    given = [torch.from_numpy(one) for one in samples]
    return [network(*[one[start : start + size] for one in given]) for start in range(0, len(given[0]), size)]


def probes(calibration: Rows, most: int, values: int, batch: int | None) -> Rows:
    """Return the first samples: at most `most`, fewer where they are large (at least 8), in full batches."""
    size = sum(rows[0].size for rows in calibration)
    count = max(FEWEST, min(most, values // size))
    full = -(-count // (batch or 1)) * (batch or 1)
    return tuple(rows[:full] for rows in calibration)
