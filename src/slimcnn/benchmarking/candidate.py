"""What a benchmark compares: networks, and files for runtimes."""

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
    """One network of a benchmark: as a module, as files for runtimes, or both."""

    name: str
    model: nn.Module | None = None
    """On the CPU; runs in PyTorch, and is exported for every runtime of which `files` has none."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Runtime → exported file, the first of its files (model.onnx, model.xml)."""
    normalization: Normalization | None = None
    """What the network expects; None: pixels are not known to fit it, or there are none."""
    bytes: int | None = None
    """Of its checkpoint; None: of its tensors."""

    def runs_in(self, runtime: str) -> bool:
        """Whether there is something to run: a module, or a file for the runtime."""
        return self.model is not None or runtime in self.files

    def inputs(self, pixels: Tensor | None, example: Tensor, takes_pixels: bool) -> Tensor:
        """What the network is asked: pixels as they are or normalized; without pixels, the example."""
        if pixels is not None and (takes_pixels or self.normalization is not None):
            return pixels if takes_pixels or self.normalization is None else self.normalization(pixels)
        if takes_pixels and example.dtype != torch.uint8:
            drawn = torch.Generator().manual_seed(0)
            return torch.randint(0, 256, tuple(example.shape), dtype=torch.uint8, generator=drawn)
        return example


def repeated(x: Tensor, n: int) -> Tensor:
    """Give `n` samples, the first ones, repeated where there are too few.

    >>> repeated(torch.tensor([1, 2]), 3).tolist()
    [1, 2, 1]
    """
    return x if len(x) == n else x[torch.arange(n) % len(x)]


def facts_of_file(path: Path) -> dict[str, Any]:
    """Read what parity.json beside an exported file says of it; empty where it says nothing."""
    for entry in read_parity(path.parent).values():
        if path.name in entry.get("files", {}):
            found: dict[str, Any] = entry
            return found
    return {}


def runtime_of_file(path: Path) -> str:
    """Tell by its name which runtime opens a file.

    Raises:
        ExportError: no format has such files.

    >>> runtime_of_file(Path("model_int8.onnx"))
    'onnxruntime'
    """
    known = {entry.value.suffixes[0]: entry.value.runtime for entry in formats}
    fitting = [suffix for suffix in known if path.name.endswith(suffix)]
    if not fitting:
        raise ExportError(f"{path} is no file for a runtime; those end with {', '.join(sorted(known))}")
    return known[max(fitting, key=len)]
