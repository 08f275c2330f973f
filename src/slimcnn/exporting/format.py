"""The interface of model file formats: one class per format, registered in `formats/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from torch.export import ExportedProgram

from slimcnn.errors import ExportError
from slimcnn.exporting.runtimes import missing
from slimcnn.registry import Registry


@dataclass(frozen=True)
class Options:
    """Export options."""

    dynamic_batch: bool = True
    """Accept any batch size, if the runtime supports it; otherwise only that of the example."""
    dynamic_size: bool = False
    """Accept images of any height and width."""
    opset: int = 18
    """ONNX opset version."""


@dataclass(frozen=True)
class Contents:
    """What a format writes: the network as a graph of PyTorch operations, and its metadata."""

    program: ExportedProgram
    """One or more input tensors, one or more output tensors; float32 weights."""
    example: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    """Names, such as ("input",) or ("input0", "input1")."""
    outputs: tuple[str, ...]
    dynamic: tuple[Mapping[int, str], ...]
    """For each input: dynamic axis → name, such as {0: "batch"}."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Class names, input layout, normalization, source: text stored in the file by name."""
    detects: bool = False
    """Whether the outputs are those of a detector, with as many rows as there are detections in the one image."""


class FileFormat(ABC):
    """A model file format.

    Subclass it in a file of `formats/`, set the attributes below, implement `write`, and register the class with
    `@formats.add(name, source=...)`. The command line, the export step, the parity check and the tests then include it.
    """

    title: ClassVar[str]
    runtime: ClassVar[str]
    """The runtime that opens its files, a key of `RUNTIMES`."""
    suffixes: ClassVar[tuple[str, ...]]
    """Suffixes of its files; the first one is the file to open."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Modules needed to write it."""
    extra: ClassVar[str] = ""
    """slimcnn's extra that installs them."""
    dynamic_batch: ClassVar[bool] = False
    """Whether a file can accept any batch size."""
    dynamic_size: ClassVar[bool] = False
    """Whether a file can accept images of any height and width."""
    pixels: ClassVar[bool] = True
    """Whether a file can take uint8 pixels."""
    detectors: ClassVar[bool] = False
    """Whether a file can return detections, whose number depends on the image."""
    holds_facts: ClassVar[bool] = True
    """Whether the file stores `Contents.facts`; if not, they are written beside it as `NAME.json`."""

    @abstractmethod
    def write(self, contents: Contents, path: Path, options: Options) -> None:
        """Write the files: `path` with each of `suffixes` appended.

        Raises:
            ExportError: the format does not support an operation of the network. Of any other exception, the user
                sees the first line.
        """

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the files that `write` creates for a path without suffix."""
        return tuple(path.with_name(path.name + suffix) for suffix in self.suffixes)

    def check(self, name: str, options: Options, pixels: bool) -> None:
        """Check packages and options before anything is written.

        Raises:
            ExportError: a package is missing, or an option is not supported.
        """
        absent = missing(self.packages)
        if absent:
            raise ExportError(
                f"writing {self.title} ({name}) needs {', '.join(absent)}: pip install 'slimcnn[{self.extra}]'"
            )
        if options.dynamic_size and not self.dynamic_size:
            raise ExportError(f"{self.title} ({name}) does not support images of any size: leave out --dynamic-size")
        if pixels and not self.pixels:
            raise ExportError(f"{self.title} ({name}) does not support uint8 pixels: leave out --bake-normalization")

    def check_detector(self, name: str) -> None:
        """Check that a file can hold a whole detector.

        Raises:
            ExportError: it cannot.
        """
        if not self.detectors:
            known = " or ".join(entry.name for entry in formats if entry.value.detectors)
            raise ExportError(
                f"{self.title} ({name}) does not support detectors, whose number of boxes depends on the image: choose "
                f"{known}"
            )


formats: Registry[type[FileFormat]] = Registry("format", home="slimcnn.exporting.formats")
"""All formats: found in exporting/formats, or added by plugins."""


def facts_of(**known: Any) -> dict[str, str]:
    """Convert metadata to text, JSON unless it is text already; empty values are left out.

    >>> facts_of(classes=["cat", "dog"], layout="NCHW", mean=None)
    {'classes': '["cat", "dog"]', 'layout': 'NCHW'}
    """
    import json

    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in known.items()
        if value not in (None, "", (), [], {})
    }
