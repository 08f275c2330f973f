"""ncnn, converted by pnnx."""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import torch

from slimcnn.errors import ExportError
from slimcnn.exporting.format import Contents, FileFormat, Options, formats
from slimcnn.exporting.tracing import traced


@formats.add("ncnn", source="github.com/Tencent/ncnn; pnnx")
class Ncnn(FileFormat):
    """ncnn, for phones and boards without other runtimes; batch size 1 only."""

    title: ClassVar = "ncnn"
    runtime: ClassVar = "ncnn"
    suffixes: ClassVar = (".ncnn.param", ".ncnn.bin")
    packages: ClassVar = ("pnnx",)
    extra: ClassVar = "mobile"
    pixels: ClassVar = False
    holds_facts: ClassVar = False

    def write(self, contents: Contents, path: Path, options: Options) -> None:
        """Convert the traced network with pnnx, in a temporary folder because pnnx writes additional files."""
        import pnnx

        if len(contents.example[0]) != 1:
            raise ExportError("ncnn (ncnn) supports batch size 1 only: give an example with batch size 1")
        script = traced(contents.program, contents.example)
        shapes = ",".join(f"[{','.join(map(str, x.shape))}]{_kind(x)}" for x in contents.example)
        with TemporaryDirectory(prefix="slimcnn-") as folder:
            torch.jit.save(script, Path(folder) / "model.pt")
            done = subprocess.run(
                [str(pnnx.EXEC_PATH), "model.pt", f"inputshape={shapes}", "fp16=0"],
                cwd=folder, capture_output=True, text=True, check=False,
            )  # fmt: skip
            made = [Path(folder) / f"model.ncnn{suffix}" for suffix in (".param", ".bin")]
            if done.returncode or not all(one.exists() for one in made):
                lines = (done.stderr or done.stdout).strip().splitlines()
                raise ExportError(f"pnnx cannot convert this network: {lines[-1] if lines else done.returncode}")
            _refuse_unknown(made[0])
            for one, to in zip(made, self.files(path), strict=True):
                to.write_bytes(one.read_bytes())


def _refuse_unknown(parameters: Path) -> None:
    """Refuse layers that ncnn does not have; pnnx writes them under PyTorch's names, such as aten::igamma."""
    kinds = [line.split()[0] for line in parameters.read_text(encoding="utf-8").splitlines()[2:] if line.strip()]
    unknown = [kind for kind in kinds if "." in kind or ":" in kind]
    if unknown:
        # aten:: sorts before the layers that pnnx adds for its inputs.
        raise NotImplementedError(f"no layer for {min(unknown)}")


def _kind(x: torch.Tensor) -> str:
    return {torch.float32: "f32", torch.int64: "i64", torch.int32: "i32"}.get(x.dtype, "f32")
