"""OpenVINO's IR format."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from slimcnn.errors import ExportError
from slimcnn.exporting.format import Contents, FileFormat, Options, formats
from slimcnn.exporting.formats.onnx import Onnx
from slimcnn.exporting.naming import name_operations
from slimcnn.exporting.runtimes import missing


@formats.add("openvino", source="openvino.ai; openvino.convert_model")
class OpenVino(FileFormat):
    """OpenVINO IR in float32, for Intel, AMD and Arm CPUs."""

    title: ClassVar = "OpenVINO"
    runtime: ClassVar = "openvino"
    suffixes: ClassVar = (".xml", ".bin")
    packages: ClassVar = ("openvino",)
    extra: ClassVar = "openvino"
    dynamic_batch: ClassVar = True
    dynamic_size: ClassVar = True
    detectors: ClassVar = True

    def write(self, contents: Contents, path: Path, options: Options) -> None:
        """Write the graph (.xml) and the weights (.bin)."""
        import openvino

        if contents.detects:
            self._write_detector(contents, path, options)
            return
        model = openvino.convert_model(contents.program)
        name_operations(model, contents.program)
        for port, name in zip((*model.inputs, *model.outputs), (*contents.inputs, *contents.outputs), strict=True):
            port.tensor.set_names({name})
        # The converter makes every axis dynamic, even if it is static in the program.
        shapes = [
            [-1 if axis in dynamic else size for axis, size in enumerate(x.shape)]
            for x, dynamic in zip(contents.example, contents.dynamic, strict=True)
        ]
        model.reshape(dict(zip(model.inputs, shapes, strict=True)))
        self._save(model, contents, path)

    def _write_detector(self, contents: Contents, path: Path, options: Options) -> None:
        """Convert an ONNX file: OpenVINO's converter of PyTorch graphs does not support non-maximum suppression."""
        import openvino

        if absent := missing(Onnx.packages):
            needed = ", ".join(absent)
            raise ExportError(f"{self.title} files of detectors need {needed}: pip install 'slimcnn[{Onnx.extra}]'")
        with TemporaryDirectory(prefix="slimcnn-") as folder:
            Onnx().write(contents, Path(folder) / "model", options)
            self._save(openvino.convert_model(Path(folder) / "model.onnx"), contents, path)

    def _save(self, model: Any, contents: Contents, path: Path) -> None:
        import openvino

        for name, text in contents.facts.items():
            model.set_rt_info(text, ["slimcnn", name])
        openvino.save_model(model, self.files(path)[0], compress_to_fp16=False)
