"""Layers kept in float until int8 loses no more accuracy than allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from slimcnn.exporting.quantizing.accuracy import Accuracy, divergence, loss_of, scores_in
from slimcnn.exporting.quantizing.engine import Engine, Rows

MOST = 0.5
"""Share of the layers that may stay in float: with more, int8 is not worth its name."""
PROBE = 64
"""Calibration samples with which single layers are tried: each costs a quantization."""
PROBED = 256
"""Calibration samples on which the answers of these trials are compared with float."""


@dataclass(frozen=True)
class MixedFile:
    """An int8 file with some layers in float."""

    path: Path
    """The file that is opened."""
    layers: tuple[str, ...]
    """They stay in float."""
    accuracy: Accuracy
    drop: float


@dataclass(frozen=True)
class Work:
    """What is quantized, where, and how it is judged."""

    engine: Engine
    source: Path
    """The float file."""
    folder: Path
    """For trials."""
    calibration: Rows
    batch: int | None
    """Samples that a file takes in one call; None: any number."""
    before: Accuracy
    """Of the float file."""
    judge: Callable[[Path], Accuracy]

    def kept(self, layers: tuple[str, ...]) -> MixedFile:
        """Quantize all but these layers."""
        stem = self.folder / f"keep{len(layers)}"
        self.engine.write(self.source, stem, self.calibration, self.batch, layers)
        path = self.engine.files(stem)[0]
        accuracy = self.judge(path)
        return MixedFile(path, layers, accuracy, loss_of(self.before, accuracy)[0])


def search(
    work: Work, layers: tuple[str, ...], max_drop: float, progress: Callable[[int, int], None]
) -> tuple[MixedFile, Mapping[str, float]]:
    """Find the fewest layers to keep in float, most sensitive first; gives the sensitivities too, if measured.

    The number is doubled until the loss is within `max_drop`, or half of the layers are in float; then halved between
    the last two. If nothing is within, the file that loses least is given.
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
    """How much nearer the answers are to float with one layer in float, in nats; needs no labels."""
    few, asked = (tuple(rows[: _whole(n, work.batch)] for rows in work.calibration) for n in (PROBE, PROBED))
    runtime = work.engine.runtime
    expected = scores_in(runtime, work.source, asked, work.batch)

    def apart(keep: tuple[str, ...]) -> float:
        stem = work.folder / "one"
        work.engine.write(work.source, stem, few, work.batch, keep)
        return divergence(expected, scores_in(runtime, work.engine.files(stem)[0], asked, work.batch))

    whole = apart(())
    found = {}
    for number, layer in enumerate(layers):
        progress(number, len(layers))
        found[layer] = whole - apart((layer,))
    progress(len(layers), len(layers))
    return found


def _whole(n: int, batch: int | None) -> int:
    """Round up to whole calls."""
    return -(-n // (batch or 1)) * (batch or 1)
