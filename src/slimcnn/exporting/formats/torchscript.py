"""TorchScript, by tracing."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch

from slimcnn.exporting.format import Contents, FileFormat, Options, formats
from slimcnn.exporting.tracing import traced


@formats.add("torchscript", source="pytorch.org; torch.jit.trace")
class TorchScript(FileFormat):
    """TorchScript, for programs that cannot read newer formats; deprecated by PyTorch."""

    title: ClassVar = "TorchScript"
    runtime: ClassVar = "torch"
    suffixes: ClassVar = (".torchscript",)
    dynamic_batch: ClassVar = True
    dynamic_size: ClassVar = True

    def write(self, contents: Contents, path: Path, options: Options) -> None:
        """Write one file; facts are stored as its extra files."""
        script = traced(contents.program, contents.example)
        torch.jit.save(script, self.files(path)[0], _extra_files=dict(contents.facts))
