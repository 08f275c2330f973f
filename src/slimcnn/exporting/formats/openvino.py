"""OpenVINO's IR format."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from slimcnn.exporting.format import Contents, FileFormat, Options, formats
from slimcnn.exporting.naming import name_operations


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

    def write(self, contents: Contents, path: Path, options: Options) -> None:
        """Write the graph (.xml) and the weights (.bin)."""
        import openvino

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
        for name, text in contents.facts.items():
            model.set_rt_info(text, ["slimcnn", name])
        openvino.save_model(model, self.files(path)[0], compress_to_fp16=False)
