"""NNCF on OpenVINO files."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from slimcnn.exporting.parity import Array
from slimcnn.exporting.preparing import FlatCall, inputs_of
from slimcnn.exporting.quantizing.around_layers import around_layers
from slimcnn.exporting.quantizing.engine import Engine, LayerOutputs, Rows, engines
from slimcnn.exporting.quantizing.nncf_settings import nncf_settings
from slimcnn.exporting.quiet import quiet
from slimcnn.measuring.examples import Example

WEIGHTED = (
    "Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul",
)  # fmt: skip


@engines.add("nncf", source="github.com/openvinotoolkit/nncf")
class Nncf(Engine):
    """NNCF on the OpenVINO file; supports fine-tuning."""

    title: ClassVar = "NNCF"
    format: ClassVar = "openvino"
    packages: ClassVar = ("openvino", "nncf")
    extra: ClassVar = "openvino"
    trains: ClassVar = True

    def layers(self, source: Path) -> tuple[str, ...]:
        """Return the layers to quantize."""
        return tuple(one.get_friendly_name() for one in _layers(_read(source)))

    def around_layers(self, source: Path) -> tuple[str, ...]:
        """Return the operations of a detector that stay in float."""
        operations = _read(source).get_ordered_ops()
        consumers = {
            one.get_friendly_name(): [
                taker.get_node().get_friendly_name() for output in one.outputs() for taker in output.get_target_inputs()
            ]
            for one in operations
        }
        types = {one.get_friendly_name(): one.get_type_name() for one in operations}
        return around_layers(types, consumers, [name for name, kind in types.items() if kind in WEIGHTED])

    def outputs(self, path: Path, layers: Sequence[str]) -> LayerOutputs:
        """Open a file to compute layers' outputs."""
        there = {one.get_friendly_name() for one in _read(path).get_ordered_ops()}
        # One layer at a time: if a convolution's output is requested, the plugin computes the following int8 layers
        # wrongly (OpenVINO 2026.4; the requested output is right).
        opened = {name: _opened_at(path, name) for name in layers if name in there}

        def give(samples: Rows) -> Mapping[str, Array]:
            return {name: run(samples) for name, run in opened.items()}

        return give

    def write(self, source: Path, path: Path, calibration: Rows, batch: int | None, keep: Sequence[str]) -> None:
        """Quantize with NNCF's defaults for CPUs."""
        with quiet():
            import openvino

            nncf, settings = nncf_settings(calibration, batch, keep)
            made = nncf.quantize(_read(source), **settings)
            openvino.save_model(made, self.files(path)[0], compress_to_fp16=False)

    def simulated(self, model: nn.Module, example: Example, calibration: Rows) -> nn.Module:
        """Insert NNCF's trainable quantizers into a copy of a network.

        The first call compiles NNCF's kernels with the C++ compiler, which takes a minute or more; without a compiler
        NNCF uses slower kernels.
        """
        os.environ.setdefault("NNCF_EXTENSION_LOAD_TIMEOUT", "0")  # NNCF's one minute may be too short
        with quiet():
            nncf, settings = nncf_settings(calibration, None, ())
            whole = settings["calibration_dataset"]
            rows = [torch.from_numpy(one) for one in whole.get_inference_data()]
            settings |= {"calibration_dataset": nncf.Dataset(rows)}
            given = copy.deepcopy(model).eval()
            # NNCF adds a child to the network, which nn.Sequential would run as its last layer.
            inner = FlatCall(given, example, None).eval() if isinstance(given, nn.Sequential) else given
            found: nn.Module = nncf.quantize(inner, **settings)
        return found

    def write_trained(self, trained: nn.Module, example: Example, source: Path, path: Path) -> None:
        """Replace NNCF's quantizers by plain operations, and convert the result with OpenVINO."""
        with quiet(), torch.no_grad():
            import nncf
            import openvino

            inputs = inputs_of(example)
            plain = nncf.strip(trained.eval(), do_copy=True, example_input=inputs)
            model = openvino.convert_model(FlatCall(plain, example, None).eval(), example_input=inputs)
            known = _read(source)
            for port, like in zip(model.inputs, known.inputs, strict=True):
                port.get_node().set_partial_shape(like.get_partial_shape())
            for port, like in zip((*model.inputs, *model.outputs), (*known.inputs, *known.outputs), strict=True):
                port.tensor.set_names(like.get_names())
            for name, fact in known.get_rt_info(["slimcnn"]).astype(dict).items():
                model.set_rt_info(fact, ["slimcnn", name])
            model.validate_nodes_and_infer_types()
            _copy_names(model, known)
            openvino.save_model(model, self.files(path)[0], compress_to_fp16=False)


def _read(path: Path) -> Any:
    import openvino

    return openvino.Core().read_model(path)


def _layers(model: Any) -> list[Any]:
    return [
        one
        for one in model.get_ordered_ops()
        if one.get_type_name() in WEIGHTED or (one.get_type_name() == "Add" and _adds_branches(one))
    ]


def _copy_names(model: Any, known: Any) -> None:
    """Copy layer names from the float file if both files have the same layers in the same order."""
    kinds = [
        [(one.get_type_name(), str(one.get_output_partial_shape(0))) for one in _layers(each)]
        for each in (model, known)
    ]
    if kinds[0] == kinds[1]:
        for one, like in zip(_layers(model), _layers(known), strict=True):
            one.set_friendly_name(like.get_friendly_name())


def _opened_at(path: Path, layer: str) -> Callable[[Rows], Array]:
    """Open a file to compute one layer's output."""
    import openvino

    model = _read(path)
    (operation,) = (one for one in model.get_ordered_ops() if one.get_friendly_name() == layer)
    model.add_outputs([operation.output(0)])  # adds none if the layer's output is the network's
    fed_by = [result.input_value(0).get_node().get_friendly_name() for result in model.get_results()]
    place = fed_by.index(layer)
    with quiet():
        compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(samples: Rows) -> Array:
        made: Array = compiled(list(samples))[place].copy()
        return made

    return run


def _adds_branches(operation: Any) -> bool:
    """Return whether both operands of an addition depend on the image; biases are constants."""
    for i in range(2):
        made = operation.input_value(i).get_node()
        while made.get_type_name() in ("Convert", "Reshape"):
            made = made.input_value(0).get_node()
        if made.get_type_name() == "Constant":
            return False
    return True
