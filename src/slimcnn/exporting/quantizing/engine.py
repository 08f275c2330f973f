"""What an engine is: a library that makes an int8 file of a float file, registered in `engines/`."""

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
"""What a network is asked: one array an input, one row a sample."""
LayerOutputs = Callable[[Rows], Mapping[str, Array]]
"""What each layer gives for some samples."""


class Engine(ABC):
    """A library that quantizes files after training.

    Subclass it in a file of `engines/`, set what is below, write the three methods, and register the class with
    `@engines.add(name, source=...)`; command line, step and tests then know it.
    """

    title: ClassVar[str]
    format: ClassVar[str]
    """Of its files, a name of `formats`: it reads model.* and writes model_int8.*"""
    packages: ClassVar[tuple[str, ...]]
    extra: ClassVar[str]
    """The extra of slimcnn that installs them."""
    trains: ClassVar[bool] = False
    """Whether it can fine-tune in PyTorch with simulated int8 (`simulated`, `write_trained`)."""

    @abstractmethod
    def layers(self, source: Path) -> tuple[str, ...]:
        """Name what may be quantized or kept in float: convolutions, matrix products, sums of two branches."""

    @abstractmethod
    def write(self, source: Path, path: Path, calibration: Rows, batch: int | None, keep: Sequence[str]) -> None:
        """Quantize the file `source`, except the layers in `keep`, into `files(path)`.

        `batch` is the number of samples that the file takes in one call; None: any number.
        """

    @abstractmethod
    def outputs(self, path: Path, layers: Sequence[str]) -> LayerOutputs:
        """Open a float or int8 file so that it gives what layers give; layers that it does not have are left out."""

    def simulated(self, model: nn.Module, example: Example, calibration: Rows) -> nn.Module:
        """Give a copy of a network that computes in float as int8 would, and can be trained."""
        raise ExportError(f"{self.title} does not fine-tune: choose another engine, or leave --epochs out")

    def write_trained(self, trained: nn.Module, example: Example, source: Path, path: Path) -> None:
        """Write what `simulated` gave, trained since; names and facts come from the float file `source`."""
        raise ExportError(f"{self.title} does not fine-tune: choose another engine, or leave --epochs out")

    @property
    def runtime(self) -> str:
        """What runs its files."""
        return formats[self.format].value.runtime

    def files(self, path: Path) -> tuple[Path, ...]:
        """The files that `write` makes for a path without suffix; the first is opened."""
        return formats[self.format].value().files(path)

    def check(self, name: str, fine_tune: bool = False) -> None:
        """Refuse what cannot be done, before anything is done.

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
            raise ExportError(f"{self.title} ({name}) does not fine-tune: choose {able}, or leave epochs out")


engines: Registry[type[Engine]] = Registry("engine", home="slimcnn.exporting.quantizing.engines")
"""Every engine: the folder exporting/quantizing/engines is scanned, plugins add theirs."""
