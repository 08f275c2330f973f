"""The interface of engines: libraries that convert a float file to int8, registered in `engines/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from torch import nn

from slimcnn.errors import ExportError
from slimcnn.exporting.format import formats
from slimcnn.exporting.parity import Array
from slimcnn.exporting.runtimes import missing, why_not
from slimcnn.measuring.examples import Example
from slimcnn.registry import Registry

Rows = tuple[Array, ...]
"""Samples for a network: one array per input, one row per sample."""
LayerOutputs = Callable[[Rows], Mapping[str, Array]]
"""Computes each layer's output for samples."""


class Engine(ABC):
    """A library for post-training quantization of files.

    Subclass it in a file of `engines/`, set the attributes below, implement the three abstract methods, and register
    the class with `@engines.add(name, source=...)`. The command line, the quantize step and the tests then include it.
    """

    title: ClassVar[str]
    format: ClassVar[str]
    """Format of its files, a key of `formats`: it reads model.* and writes model_int8.*"""
    packages: ClassVar[tuple[str, ...]]
    extra: ClassVar[str]
    """slimcnn's extra that installs them."""
    trains: ClassVar[bool] = False
    """Whether it can fine-tune in PyTorch with simulated int8 (`simulated`, `write_trained`)."""

    @abstractmethod
    def layers(self, source: Path) -> tuple[str, ...]:
        """Return the layers to quantize or keep in float: convolutions, matrix products, sums of two branches."""

    @abstractmethod
    def write(self, source: Path, path: Path, calibration: Rows, batch: int | None, keep: Sequence[str]) -> None:
        """Quantize the file `source`, except the layers in `keep`, into `files(path)`.

        `batch` is the file's batch size; None: any.
        """

    @abstractmethod
    def outputs(self, path: Path, layers: Sequence[str]) -> LayerOutputs:
        """Open a float or int8 file to compute layers' outputs; layers that it lacks are left out."""

    def around_layers(self, source: Path) -> tuple[str, ...]:
        """Return the operations of a detector that stay in float: those on images, and those on boxes and scores."""
        return ()

    def simulated(self, model: nn.Module, example: Example, calibration: Rows) -> nn.Module:
        """Return a trainable copy of a network that simulates int8 in float."""
        raise ExportError(f"{self.title} does not support fine-tuning: choose another engine, or leave out --epochs")

    def write_trained(self, trained: nn.Module, example: Example, source: Path, path: Path) -> None:
        """Write the trained network from `simulated`; names and facts come from the float file `source`."""
        raise ExportError(f"{self.title} does not support fine-tuning: choose another engine, or leave out --epochs")

    @property
    def runtime(self) -> str:
        """The runtime of its files."""
        return formats[self.format].value.runtime

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the files that `write` creates for a path without suffix, the one to open first."""
        return formats[self.format].value().files(path)

    def check(self, name: str, fine_tune: bool = False) -> None:
        """Check packages and options before anything is done.

        Raises:
            ExportError: a package is missing, or the engine cannot fine-tune.
        """
        absent = missing(self.packages)
        if absent:
            raise ExportError(f"{self.title} ({name}) needs {', '.join(absent)}: pip install 'slimcnn[{self.extra}]'")
        reason = why_not(self.runtime)
        if reason:
            raise ExportError(reason)
        if fine_tune and not self.trains:
            able = ", ".join(entry.name for entry in engines if entry.value.trains)
            raise ExportError(f"{self.title} ({name}) does not support fine-tuning: choose {able}, or leave out epochs")


engines: Registry[type[Engine]] = Registry("engine", home="slimcnn.exporting.quantizing.engines")
"""All engines: found in exporting/quantizing/engines, or added by plugins."""
