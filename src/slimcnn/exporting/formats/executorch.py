"""ExecuTorch programs, run by XNNPACK."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from slimcnn.exporting.format import Contents, FileFormat, Options, formats


@formats.add("executorch", source="pytorch.org/executorch")
class ExecuTorch(FileFormat):
    """ExecuTorch with XNNPACK, for phones and small boards."""

    title: ClassVar = "ExecuTorch"
    runtime: ClassVar = "executorch"
    suffixes: ClassVar = (".pte",)
    packages: ClassVar = ("executorch",)
    extra: ClassVar = "mobile"
    holds_facts: ClassVar = False

    def write(self, contents: Contents, path: Path, options: Options) -> None:
        """Write one file; ExecuTorch's own kernels run the operations that XNNPACK does not support."""
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        edge = to_edge_transform_and_lower(contents.program, partitioner=[XnnpackPartitioner()])
        self.files(path)[0].write_bytes(edge.to_executorch().buffer)
