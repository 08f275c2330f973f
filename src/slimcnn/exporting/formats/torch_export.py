"""torch.export programs."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch

from slimcnn.exporting.format import Contents, FileFormat, Options, formats


@formats.add("torch_export", source="pytorch.org; torch.export.save")
class TorchExport(FileFormat):
    """A torch.export program, for use in PyTorch; runs without slimcnn."""

    title: ClassVar = "PyTorch export"
    runtime: ClassVar = "torch"
    suffixes: ClassVar = (".pt2",)
    dynamic_batch: ClassVar = True
    dynamic_size: ClassVar = True

    def write(self, contents: Contents, path: Path, options: Options) -> None:
        """Write one file; facts are stored as its extra files."""
        torch.export.save(contents.program, self.files(path)[0], extra_files=dict(contents.facts))
