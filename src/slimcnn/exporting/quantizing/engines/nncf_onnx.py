"""NNCF on ONNX files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from slimcnn.exporting.quantizing.engine import Engine, LayerOutputs, Rows, engines
from slimcnn.exporting.quantizing.nncf_settings import nncf_settings
from slimcnn.exporting.quantizing.onnx_layers import around_layers_of, keep_facts, layers_of, outputs_of
from slimcnn.exporting.quiet import quiet


@engines.add("nncf_onnx", source="github.com/openvinotoolkit/nncf")
class NncfOnnx(Engine):
    """NNCF on the ONNX file, for ONNX Runtime and other runtimes that read ONNX."""

    title: ClassVar = "NNCF on ONNX"
    format: ClassVar = "onnx"
    packages: ClassVar = ("onnx", "nncf")
    extra: ClassVar = "export,openvino"

    def layers(self, source: Path) -> tuple[str, ...]:
        """Return the layers to quantize."""
        return layers_of(source)

    def around_layers(self, source: Path) -> tuple[str, ...]:
        """Return the operations of a detector that stay in float."""
        return around_layers_of(source)

    def outputs(self, path: Path, layers: Sequence[str]) -> LayerOutputs:
        """Open a file to compute layers' outputs."""
        return outputs_of(path, layers)

    def write(self, source: Path, path: Path, calibration: Rows, batch: int | None, keep: Sequence[str]) -> None:
        """Quantize with NNCF's defaults for CPUs."""
        with quiet():
            import onnx

            model = onnx.load(source)
            names = [one.name for one in model.graph.input]
            nncf, settings = nncf_settings(calibration, batch, keep, names)
            made = nncf.quantize(model, **settings)
            keep_facts(made, source)
            onnx.save(made, self.files(path)[0])
