"""ONNX, written by PyTorch's exporter."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import torch

from slimcnn.exporting.format import Contents, FileFormat, Options, formats


@formats.add("onnx", source="onnx.ai; torch.onnx.export")
class Onnx(FileFormat):
    """ONNX, the format that most runtimes read."""

    title: ClassVar = "ONNX"
    runtime: ClassVar = "onnxruntime"
    suffixes: ClassVar = (".onnx",)
    packages: ClassVar = ("onnx", "onnxscript")
    extra: ClassVar = "export"
    dynamic_batch: ClassVar = True
    dynamic_size: ClassVar = True
    detectors: ClassVar = True

    def write(self, contents: Contents, path: Path, options: Options) -> None:
        """Write one file with the weights inside; nodes are named after their layers."""
        import onnx

        found = torch.onnx.export(
            contents.program, (), dynamo=True, input_names=contents.inputs, output_names=contents.outputs,
            opset_version=options.opset, external_data=False, verbose=False,
        )  # fmt: skip
        assert found is not None
        model = found.model_proto
        _name_nodes(model.graph)
        _name_axes(model.graph, contents)
        _strip_origin(model)
        model.producer_name, model.producer_version = "slimcnn", ""
        for name, text in contents.facts.items():
            model.metadata_props.add(key=name, value=text)
        onnx.save(model, self.files(path)[0])


def _name_nodes(graph: Any) -> None:
    """Name every node by layer and operation, such as layer1.0.conv1/Conv, so that tools can locate it."""
    taken: Counter[str] = Counter()
    for node in graph.node:
        scopes = next((one.value for one in node.metadata_props if one.key == "pkg.torch.onnx.name_scopes"), "")
        layers = re.findall(r"'([^']*)'", scopes)  # modules from the outermost to the innermost, then the operation
        layer = layers[-2].removeprefix("model").lstrip(".") if len(layers) > 1 else ""
        name = f"{layer}/{node.op_type}".lstrip("/")
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"


def _name_axes(graph: Any, contents: Contents) -> None:
    """Name dynamic axes batch, height and width instead of s0, s1, s2."""
    names: dict[str, str] = {}
    for value, axes in zip(graph.input, contents.dynamic, strict=True):
        for axis, name in axes.items():
            names[value.type.tensor_type.shape.dim[axis].dim_param] = name
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda found: names.get(found[0], found[0]), dim.dim_param)


def _strip_origin(model: Any) -> None:
    """Remove the exporter's notes on the Python code, such as paths of source files."""
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph, model):
        del part.metadata_props[:]
    for part in (*graph.node, graph, model):
        part.doc_string = ""
