"""Core ML packages."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from slimcnn.exporting.format import Contents, FileFormat, Options, formats


@formats.add("coreml", source="apple.github.io/coremltools")
class CoreMl(FileFormat):
    """Core ML in float32, for iPhones and Macs; can be written on any system, runs on macOS only."""

    title: ClassVar = "Core ML"
    runtime: ClassVar = "coreml"
    suffixes: ClassVar = (".mlpackage",)
    packages: ClassVar = ("coremltools",)
    extra: ClassVar = "mobile"
    pixels: ClassVar = False

    def write(self, contents: Contents, path: Path, options: Options) -> None:
        """Write a package (a folder); facts are stored as user-defined metadata."""
        import coremltools

        inputs = [
            coremltools.TensorType(name=name, shape=tuple(x.shape))
            for name, x in zip(contents.inputs, contents.example, strict=True)
        ]
        outputs = [coremltools.TensorType(name=name) for name in contents.outputs]
        model = coremltools.convert(
            contents.program.run_decompositions({}),
            inputs=inputs,
            outputs=outputs,
            convert_to="mlprogram",
            compute_precision=coremltools.precision.FLOAT32,
            skip_model_load=True,
        )
        model.user_defined_metadata.update({f"slimcnn.{name}": text for name, text in contents.facts.items()})
        model.save(str(self.files(path)[0]))
