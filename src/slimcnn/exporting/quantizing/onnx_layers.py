"""Layers of ONNX files and their outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimcnn.exporting.parity import Array
from slimcnn.exporting.quantizing.around_layers import around_layers
from slimcnn.exporting.quantizing.engine import LayerOutputs, Rows

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def layers_of(path: Path) -> tuple[str, ...]:
    """Return the nodes that engines quantize: convolutions, matrix products, sums of two branches."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    fixed = {one.name for one in graph.initializer}
    fixed |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    sums = {node.name for node in graph.node if node.op_type == "Add" and not fixed & set(node.input)}
    return tuple(node.name for node in graph.node if node.op_type in WEIGHTED or node.name in sums)


def around_layers_of(path: Path) -> tuple[str, ...]:
    """Return the nodes of a detector before its first and after its last layers with weights."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    taken_by: dict[str, list[str]] = {}
    for node in graph.node:
        for name in _inputs(node):
            taken_by.setdefault(name, []).append(node.name)
    consumers = {node.name: [one for name in node.output for one in taken_by.get(name, ())] for node in graph.node}
    types = {node.name: node.op_type for node in graph.node}
    return around_layers(types, consumers, [name for name, kind in types.items() if kind in WEIGHTED])


def _inputs(node: Any) -> list[str]:
    """Return the inputs of a node and of the graphs inside of it, which may take values from outside."""
    inner = [one for attribute in node.attribute for one in attribute.g.node]
    return [*node.input, *(name for one in inner for name in _inputs(one))]


def outputs_of(path: Path, layers: Sequence[str]) -> LayerOutputs:
    """Open a file in ONNX Runtime with the outputs of these nodes as additional outputs."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    wanted = {node.name: node.output[0] for node in model.graph.node if node.name in set(layers)}
    known = {one.name for one in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted.values() if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = [one.name for one in session.get_inputs()]

    def give(samples: Rows) -> Mapping[str, Array]:
        found = session.run(list(wanted.values()), dict(zip(inputs, samples, strict=True)))
        return dict(zip(wanted, found, strict=True))

    return give


def keep_facts(model: Any, source: Path) -> None:
    """Replace a model's metadata by that of its float file; libraries add their own entries."""
    import onnx

    known = onnx.load(source, load_external_data=False)
    del model.metadata_props[:]
    model.metadata_props.extend(known.metadata_props)
    model.producer_name, model.producer_version = known.producer_name, ""
