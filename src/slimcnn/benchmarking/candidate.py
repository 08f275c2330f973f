"""The candidates of a benchmark: networks and exported files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.datasets import Normalization
from slimcnn.errors import ExportError
from slimcnn.exporting import formats, read_parity


@dataclass(frozen=True, eq=False)
class Candidate:
    """One network of a benchmark: a module, files for runtimes, or both."""

    name: str
    model: nn.Module | None = None
    """On the CPU; runs in PyTorch, and is exported for every runtime without a file in `files`."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Runtime → exported file, the one to open (model.onnx, model.xml)."""
    normalization: Normalization | None = None
    """The network's normalization; None: unknown, or there are no images."""
    bytes: int | None = None
    """Size of its checkpoint; None: the size of its tensors is used."""

    def runs_in(self, runtime: str) -> bool:
        """Whether the candidate has a module or a file for the runtime."""
        return self.model is not None or runtime in self.files

    def inputs(self, pixels: Tensor | None, example: Tensor, takes_pixels: bool) -> Tensor:
        """Return the network's input: pixels, raw or normalized, or the example if there are no pixels."""
        if pixels is not None and (takes_pixels or self.normalization is not None):
            return pixels if takes_pixels or self.normalization is None else self.normalization(pixels)
        if takes_pixels and example.dtype != torch.uint8:
            drawn = torch.Generator().manual_seed(0)
            return torch.randint(0, 256, tuple(example.shape), dtype=torch.uint8, generator=drawn)
        return example


def repeated(x: Tensor, n: int) -> Tensor:
    """Return the first `n` samples, repeated if there are too few.

    >>> repeated(torch.tensor([1, 2]), 3).tolist()
    [1, 2, 1]
    """
    return x if len(x) == n else x[torch.arange(n) % len(x)]


def facts_of_file(path: Path) -> dict[str, Any]:
    """Return an exported file's entry in the parity.json beside it; empty if there is none."""
    for entry in read_parity(path.parent).values():
        if path.name in entry.get("files", {}):
            found: dict[str, Any] = entry
            return found
    return {}


def runtime_of_file(path: Path) -> str:
    """Return the runtime that opens a file, by the file's name.

    Raises:
        ExportError: no format has this suffix.

    >>> runtime_of_file(Path("model_int8.onnx"))
    'onnxruntime'
    """
    known = {entry.value.suffixes[0]: entry.value.runtime for entry in formats}
    fitting = [suffix for suffix in known if path.name.endswith(suffix)]
    if not fitting:
        raise ExportError(f"{path} is not a file for a runtime: those end with {', '.join(sorted(known))}")
    return known[max(fitting, key=len)]
