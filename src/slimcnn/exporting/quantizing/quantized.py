"""Result of a quantization: two files, their accuracy and speed, and which one to ship."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimcnn.exporting.parity import Parity
from slimcnn.exporting.quantizing.accuracy import Accuracy, loss_of
from slimcnn.exporting.quantizing.speed import SpeedComparison

AGREES = {"top-1": "top-1", "pixel accuracy": "classes of pixels"}
"""What int8 and float have in common where there are no labels, by the name of the accuracy."""


@dataclass(frozen=True)
class LayerError:
    """Effect of int8 on one layer."""

    layer: str
    error: float | None
    """RMS error of its output, relative to the output's RMS, with the layers before it in int8 too. None if the int8
    file lacks the output."""
    sensitivity: float | None = None
    """Decrease of the divergence from float if only this layer is in float, in nats; None if not measured, because no
    layer had to stay in float."""
    kept: bool = False
    """Whether it stays in float."""


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
    """The int8 file to open."""
    files: tuple[Path, ...]
    bytes: int
    before: Accuracy
    """Accuracy of the float file in the runtime."""
    after: Accuracy
    max_drop: float
    labels: bool
    """Whether there were labels; without them `after` is the agreement with float, which bounds the loss."""
    parity: Parity
    layers: tuple[LayerError, ...]
    speed: SpeedComparison
    calibrated_on: int
    """Number of samples."""
    fine_tuned: bool = False
    test: tuple[Accuracy, Accuracy] | None = None
    """Accuracy of float and int8 on test images, which were not used for any choice."""
    entry: Mapping[str, Any] = field(default_factory=dict)
    """Its entry in parity.json."""

    @property
    def drop(self) -> float:
        """Percentage points of top-1, or of pixel accuracy, that int8 loses."""
        return loss_of(self.before, self.after)[0]

    @property
    def within(self) -> bool:
        """Whether the loss is at most `max_drop`."""
        return self.drop <= self.max_drop

    @property
    def kept(self) -> tuple[str, ...]:
        """Layers that stay in float."""
        return tuple(one.layer for one in self.layers if one.kept)

    @property
    def ship(self) -> Path:
        """The file to ship: int8 if it is within `max_drop` and not slower here, else float."""
        return self.path if self.within and self.speed.verdict != "slower" else self.float_path

    @property
    def advice(self) -> str:
        """Which file to ship, and why."""
        if not self.within:
            limit = f"more than the {self.max_drop:g} allowed"
            return f"ship {self.float_path.name}: int8 loses {self.drop:.2f} points of {self.before.name}, {limit}"
        if self.speed.verdict == "no difference":
            return f"ship {self.path.name}: as fast as float, and {self.bytes / self.float_bytes:.2f} times the size"
        return f"ship {self.ship.name}: {self.speed}"

    def __str__(self) -> str:
        lost, error = loss_of(self.before, self.after)
        what = self.before.name if self.labels else f"same {AGREES[self.before.name]} as float"
        kept = f", {len(self.kept)} of {len(self.layers)} layers in float" if self.kept else ""
        tuned = ", fine-tuned" if self.fine_tuned else ""
        return (
            f"{self.path} ({self.bytes:,} bytes, float {self.float_bytes:,}): {what} {self.before.percent:.2f} -> "
            f"{self.after.percent:.2f} % on {len(self.after.hits):,} samples in this runtime, {lost:.2f} points lost "
            f"(standard error {error:.2f}){kept}{tuned}"
        )
