"""Run an ONNX file in ONNX Runtime. Standalone: needs numpy and onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def open_model(path: str, threads: int | None = None) -> Callable[..., Any]:
    """Open `path` on the CPU with this many threads (None: the runtime's default); return a function of arrays."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def predict(*arrays: Any) -> Any:
        found = session.run(None, dict(zip(names, arrays, strict=True)))
        return found[0] if len(found) == 1 else tuple(found)

    return predict
