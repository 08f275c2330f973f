"""Run an OpenVINO model (.xml with .bin, or .onnx) on the CPU. Standalone: needs numpy and openvino."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def open_model(path: str, threads: int | None = None) -> Callable[..., Any]:
    """Open `path` on the CPU with this many threads (None: the runtime's default); return a function of arrays."""
    import openvino

    core = openvino.Core()
    # On CPUs with bf16 the plugin computes in bf16 by default, which changes outputs by 1 %.
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(core.read_model(path), "CPU", settings)

    def predict(*arrays: Any) -> Any:
        found = compiled(list(arrays))
        outputs = [found[i].copy() for i in range(len(compiled.outputs))]  # the runtime reuses its own memory
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return predict
