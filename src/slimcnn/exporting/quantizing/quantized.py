"""What quantization gives: two files, their accuracy and speed, and which one to ship."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimcnn.exporting.parity import Parity
from slimcnn.exporting.quantizing.accuracy import Accuracy, loss_of
from slimcnn.exporting.quantizing.speed import SpeedComparison


@dataclass(frozen=True)
class LayerError:
    """What int8 does to one layer."""

    layer: str
    error: float | None
    """Root of the mean squared difference of its output, over the output's root mean square; all before it is int8
    too. None where the int8 file does not have the layer's output."""
    sensitivity: float | None = None
    """How much smaller the divergence of the network's answers is with this layer in float, in nats; None where nothing
    had to be kept in float, so that it was not measured."""
    kept: bool = False
    """It stays in float."""


@dataclass(frozen=True)
class Quantized:
    """A float file and an int8 file of one network."""

    engine: str
    format: str
    runtime: str
    float_path: Path
    float_files: tuple[Path, ...]
    float_bytes: int
    path: Path
    """The int8 file that is opened."""
    files: tuple[Path, ...]
    bytes: int
    before: Accuracy
    """Of the float file, in the runtime."""
    after: Accuracy
    max_drop: float
    labels: bool
    """Without labels, `before` and `after` count where int8 answers as float does, which bounds the loss."""
    parity: Parity
    layers: tuple[LayerError, ...]
    speed: SpeedComparison
    calibrated_on: int
    """Samples."""
    fine_tuned: bool = False
    test: tuple[Accuracy, Accuracy] | None = None
    """Float and int8 on test images, which no choice has seen."""
    entry: Mapping[str, Any] = field(default_factory=dict)
    """What parity.json holds of it."""

    @property
    def drop(self) -> float:
        """Points of top-1 that int8 loses."""
        return loss_of(self.before, self.after)[0]

    @property
    def within(self) -> bool:
        """Whether the loss is within what was asked."""
        return self.drop <= self.max_drop

    @property
    def kept(self) -> tuple[str, ...]:
        """Layers that stay in float."""
        return tuple(one.layer for one in self.layers if one.kept)

    @property
    def ship(self) -> Path:
        """The file to ship: int8 if it loses no more than asked and is not slower here, else float."""
        return self.path if self.within and self.speed.verdict != "slower" else self.float_path

    @property
    def advice(self) -> str:
        """Which file to ship, and why."""
        if not self.within:
            asked = f"more than the {self.max_drop:g} asked"
            return f"ship {self.float_path.name}: int8 loses {self.drop:.2f} points of top-1, {asked}"
        if self.speed.verdict == "no difference":
            return f"ship {self.path.name}: as fast, and {self.bytes / self.float_bytes:.2f} of the bytes"
        return f"ship {self.ship.name}: {self.speed}"

    def __str__(self) -> str:
        lost, error = loss_of(self.before, self.after)
        what = "top-1" if self.labels else "same top-1 as float"
        kept = f", {len(self.kept)} of {len(self.layers)} layers in float" if self.kept else ""
        tuned = ", fine-tuned" if self.fine_tuned else ""
        return (
            f"{self.path} ({self.bytes:,} bytes, float {self.float_bytes:,}): {what} {self.before.top1:.2f} -> "
            f"{self.after.top1:.2f} % on {len(self.after.hits):,} samples in this runtime, {lost:.2f} points lost "
            f"(standard error {error:.2f}){kept}{tuned}"
        )
