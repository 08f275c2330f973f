"""The float file that is quantized, and its samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.errors import ExportError
from slimcnn.exporting.exported import read_parity
from slimcnn.exporting.preparing import PerChannel
from slimcnn.exporting.quantizing.engine import Rows
from slimcnn.exporting.quantizing.file_network import FileNetwork
from slimcnn.exporting.source import file_digest, source_digest
from slimcnn.exporting.writing import entry_of, export, samples_of
from slimcnn.measuring.examples import Example

COMPARED = 64
"""Number of calibration samples for the parity check of a new float file."""


@dataclass(frozen=True)
class FloatFile:
    """An exported network in float32."""

    path: Path
    bytes: int
    facts: Mapping[str, Any]
    """As in parity.json."""
    example: Example
    normalization: PerChannel | None

    @property
    def batch(self) -> int | None:
        """The file's batch size; None: any."""
        found = self.facts["batch"]
        return None if found == "any" else int(found)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of a detector's outputs; empty for other networks."""
        return tuple(self.facts.get("outputs", ()))

    def network(self, runtime: str, path: Path) -> FileNetwork:
        """Open this file, or an int8 file of it, to call it with samples as they are given, such as uint8 pixels."""
        return FileNetwork(runtime, path, self.batch, self.outputs, self.converted)

    def converted(self, given: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """Convert samples to the file's input format."""
        return samples_of(self.example, given, self.normalization, self.facts["dtype"] == "uint8 pixels")

    def rows(self, given: Tensor | Sequence[Tensor]) -> Rows:
        """Convert samples to arrays in the file's input format, full batches only."""
        size = self.batch or 1
        return tuple(one[: len(one) // size * size].numpy() for one in self.converted(given))


def float_file(
    model: nn.Module, example: Example, to: str, folder: Path, images: Tensor | Sequence[Tensor],
    normalization: PerChannel | None, scaling: Mapping[str, Any] | None, classes: Sequence[str],
    say: Callable[[str], None],
) -> FloatFile:  # fmt: skip
    """Reuse the folder's file of this network, or export one."""
    entry = read_parity(folder).get(to, {})
    files: Mapping[str, str] = entry.get("files", {})
    there = entry.get("source") == source_digest(model) and entry.get("status") == "equal"
    if not there or any(not (folder / name).exists() or file_digest(folder / name) != files[name] for name in files):
        few = images[:COMPARED] if isinstance(images, Tensor) else [one[:COMPARED] for one in images]
        (made,) = export(
            model, example, to, out=folder, images=few, normalization=normalization, scaling=scaling,
            classes=classes, force=True, compared_on="calibration images", say=say,
        )  # fmt: skip
        entry = entry_of(made)
    return FloatFile(folder / next(iter(entry["files"])), int(entry["bytes"]), entry["facts"], example, normalization)


def refuse_calibration(
    example: Example, images: Tensor | Sequence[Tensor] | None, normalization: PerChannel | None
) -> None:
    """Check the calibration samples; NaN and infinite values would corrupt all scales.

    Raises:
        ExportError: there are no samples, their shape differs from the example's, or a value is not finite.
    """
    given = [images] if isinstance(images, Tensor) else list(images or ())
    if not given or any(len(one) == 0 for one in given):
        raise ExportError("no calibration images: int8 needs a few hundred, without labels (images=)")
    for one in samples_of(example, given, normalization, pixels=False):
        bad = (
            ~torch.isfinite(one).flatten(1).all(1)
            if one.is_floating_point()
            else torch.zeros(len(one), dtype=torch.bool)
        )
        if bad.any():
            first = int(bad.nonzero()[0])
            raise ExportError(
                f"{int(bad.sum())} of {len(one)} calibration images contain NaN or infinite values, the first at index "
                f"{first}: remove them"
            )
