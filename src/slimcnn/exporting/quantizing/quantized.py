"""Result of a quantization: two files, their accuracy and speed, and which one to ship."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimcnn.exporting.parity import Parity
from slimcnn.exporting.quantizing.accuracy import PIXEL_ACCURACY, TOP1, Accuracy, loss_of
from slimcnn.exporting.quantizing.speed import SpeedComparison

AGREES = {TOP1: "same top-1 as float", PIXEL_ACCURACY: "same classes of pixels as float"}
"""What an accuracy is without labels: the agreement with float."""


@dataclass(frozen=True)
class LayerError:
    """Effect of int8 on one layer."""

    layer: str
    error: float | None
    """RMS error of its output, relative to the output's RMS, with the layers before it in int8 too. None if the int8
    file lacks the output."""
    sensitivity: float | None = None
    """Decrease of the distance from float if only this layer is in float, see `Quantized.distance_name`; None if not
    measured, because no layer had to stay in float."""
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
    distance_name: str = "KL divergence, nats"
    """What the layers' sensitivity is measured in."""
    fine_tuned: bool = False
    test: tuple[Accuracy, Accuracy] | None = None
    """Accuracy of float and int8 on test images, which were not used for any choice."""
    entry: Mapping[str, Any] = field(default_factory=dict)
    """Its entry in parity.json."""

    @property
    def drop(self) -> float:
        """How much worse the metric is in int8: percentage points, or the metric's unit."""
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
            return f"ship {self.float_path.name}: int8 {self._loses}, more than the {self.max_drop:g} allowed"
        if self.speed.verdict == "no difference":
            return f"ship {self.path.name}: as fast as float, and {self.bytes / self.float_bytes:.2f} times the size"
        return f"ship {self.ship.name}: {self.speed}"

    @property
    def _loses(self) -> str:
        """What int8 loses, as the rest of a sentence about it."""
        metric = self.before.metric
        by = metric.measured_difference(self.drop)
        return f"loses {by} of {metric.name}" if metric.higher_is_better else f"raises the {metric.name} by {by}"

    def __str__(self) -> str:
        error, metric = loss_of(self.before, self.after)[1], self.before.metric
        what = metric.name if self.labels else AGREES[metric]
        scatter = f" (standard error {error:.2f})" if error is not None else ""
        kept = f", {len(self.kept)} of {len(self.layers)} layers in float" if self.kept else ""
        tuned = ", fine-tuned" if self.fine_tuned else ""
        return (
            f"{self.path} ({self.bytes:,} bytes, float {self.float_bytes:,}): {what} "
            f"{metric.number(self.before.value)} -> {metric.written(self.after.value)} on {self.after.n:,} samples in "
            f"this runtime, int8 {self._loses}{scatter}{kept}{tuned}"
        )
