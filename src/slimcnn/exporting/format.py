"""What a format of model files is: one class a format, registered in `formats/`."""

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
    """How files are written."""

    dynamic_batch: bool = True
    """Any number of images at once, where the runtime has it; otherwise as many as the example has."""
    dynamic_size: bool = False
    """Images of any height and width."""
    opset: int = 18
    """Version of the ONNX operators."""


@dataclass(frozen=True)
class Contents:
    """What a format writes: the network as a graph of PyTorch's operations, and what is said of it inside the file."""

    program: ExportedProgram
    """One or several tensors in, one or several out; weights in float32."""
    example: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    """Names, such as ("input",) or ("input0", "input1")."""
    outputs: tuple[str, ...]
    dynamic: tuple[Mapping[int, str], ...]
    """For each input: axis → name of its length, such as {0: "batch"}."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Class names, input layout, normalization, source: text that is stored in the file, each under its name."""


class FileFormat(ABC):
    """One format of model files.

    Subclass it in a file of `formats/`, set what is below, write `write`, and register the class with
    `@formats.add(name, source=...)`; command line, step, parity check and tests then know it.
    """

    title: ClassVar[str]
    runtime: ClassVar[str]
    """What runs it: a name of `RUNTIMES`, which also says how its files are opened."""
    suffixes: ClassVar[tuple[str, ...]]
    """Of its files; the first is the one that is opened."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Modules that are needed to write it."""
    extra: ClassVar[str] = ""
    """The extra of slimcnn that installs them."""
    dynamic_batch: ClassVar[bool] = False
    """Whether a file may take any number of images at once."""
    dynamic_size: ClassVar[bool] = False
    """Whether a file may take images of any height and width."""
    pixels: ClassVar[bool] = True
    """Whether a file may take uint8 pixels."""
    holds_facts: ClassVar[bool] = True
    """Whether `Contents.facts` are inside the file; where not, they are written beside it as `NAME.json`."""

    @abstractmethod
    def write(self, contents: Contents, path: Path, options: Options) -> None:
        """Write the files: `path` with each of `suffixes` appended.

        Raises:
            ExportError: the format cannot hold an operation of the network; or any other error, whose first line
                is then shown.
        """

    def files(self, path: Path) -> tuple[Path, ...]:
        """The files that `write` makes for a path without suffix."""
        return tuple(path.with_name(path.name + suffix) for suffix in self.suffixes)

    def check(self, name: str, options: Options, pixels: bool) -> None:
        """Refuse what this format cannot do, before anything is written.

        Raises:
            ExportError: packages are missing, or an option is impossible.
        """
        absent = missing(self.packages)
        if absent:
            raise ExportError(
                f"writing {self.title} ({name}) needs {', '.join(absent)}: pip install 'slimcnn[{self.extra}]'"
            )
        if options.dynamic_size and not self.dynamic_size:
            raise ExportError(f"{self.title} ({name}) has no images of any size: leave --dynamic-size out")
        if pixels and not self.pixels:
            raise ExportError(f"{self.title} ({name}) takes no uint8 pixels: leave --bake-normalization out")


formats: Registry[type[FileFormat]] = Registry("format", home="slimcnn.exporting.formats")
"""Every format: the folder exporting/formats is scanned, plugins add theirs."""


def facts_of(**known: Any) -> dict[str, str]:
    """Write facts as text, JSON where they are no text; what is empty is left out.

    >>> facts_of(classes=["cat", "dog"], layout="NCHW", mean=None)
    {'classes': '["cat", "dog"]', 'layout': 'NCHW'}
    """
    import json

    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in known.items()
        if value not in (None, "", (), [], {})
    }
