"""Run a Core ML model (.mlpackage) on macOS. Standalone: needs numpy and coremltools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def open_model(path: str, threads: int | None = None) -> Callable[..., Any]:
    """Open `path` on the CPU; the runtime chooses the number of threads. Return a function of arrays."""
    import coremltools

    model = coremltools.models.MLModel(path, compute_units=coremltools.ComputeUnit.CPU_ONLY)
    description = model.get_spec().description
    inputs, outputs = ([one.name for one in part] for part in (description.input, description.output))

    def predict(*arrays: Any) -> Any:
        found = model.predict(dict(zip(inputs, arrays, strict=True)))
        return found[outputs[0]] if len(outputs) == 1 else tuple(found[name] for name in outputs)

    return predict
