"""ONNX Runtime's static quantization."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from slimcnn.exporting.quantizing.engine import Engine, LayerOutputs, Rows, engines
from slimcnn.exporting.quantizing.onnx_layers import around_layers_of, keep_facts, layers_of, outputs_of
from slimcnn.exporting.quiet import quiet

AT_ONCE = 16
"""Calibration samples per call; the activations of all of them are kept in memory."""


@engines.add("onnxruntime", source="onnxruntime.quantization.quantize_static")
class OnnxRuntimeStatic(Engine):
    """ONNX Runtime: static QDQ, per-channel weights, min-max calibration of activations."""

    title: ClassVar = "ONNX Runtime's quantization"
    format: ClassVar = "onnx"
    packages: ClassVar = ("onnx", "onnxruntime")
    extra: ClassVar = "export"

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
        """Quantize to signed int8, weights and activations."""
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        names = [one.name for one in onnx.load(source, load_external_data=False).graph.input]
        size = batch or AT_ONCE

        def batches() -> Iterator[dict[str, Any]]:
            for start in range(0, len(calibration[0]), size):
                yield dict(zip(names, (one[start : start + size] for one in calibration), strict=True))

        class Reader(CalibrationDataReader):  # type: ignore[misc] # the library has no types
            given = batches()

            def get_next(self) -> dict[str, Any] | None:
                return next(self.given, None)

        (target,) = self.files(path)
        with quiet():
            quantize_static(
                source, target, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, nodes_to_exclude=list(keep),
            )  # fmt: skip
            model = onnx.load(target)
            keep_facts(model, source)
            onnx.save(model, target)
