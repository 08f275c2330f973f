"""Programs of torch.export."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch

from slimcnn.exporting.format import Contents, FileFormat, Options, formats


@formats.add("torch_export", source="pytorch.org; torch.export.save")
class TorchExport(FileFormat):
    """A program of torch.export, for those who stay in PyTorch; nothing of slimcnn is needed to run it."""

    title: ClassVar = "PyTorch export"
    runtime: ClassVar = "torch"
    suffixes: ClassVar = (".pt2",)
    dynamic_batch: ClassVar = True
    dynamic_size: ClassVar = True

    def write(self, contents: Contents, path: Path, options: Options) -> None:
        """Write one file; facts are its extra files."""
        torch.export.save(contents.program, self.files(path)[0], extra_files=dict(contents.facts))
