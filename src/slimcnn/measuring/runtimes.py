"""Networks as other programs run them: exported to ONNX, and timed like any network here."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.errors import ModelError
from slimcnn.measuring.examples import undisturbed

RUNTIMES = {"eager": "torch eager", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
"""Name → title."""
EXPORTING = ("onnx", "onnxscript")
"""Packages by which PyTorch exports."""


def installed() -> list[str]:
    """Name the runtimes that are on this machine, with what exporting to them needs.

    >>> "eager" in installed()
    True
    """
    exports = all(find_spec(package) for package in EXPORTING)
    return ["eager", *(name for name in ("onnxruntime", "openvino") if exports and find_spec(name))]


class Exported(nn.Module):
    """A network in another runtime, called like a module; float32 images on the CPU."""

    def __init__(self, session: Any, kind: str) -> None:
        super().__init__()
        self.session, self.kind = session, kind

    def forward(self, x: Tensor) -> Tensor:
        """Run the network: `x` to its first output."""
        if self.kind == "onnxruntime":
            return torch.from_numpy(self.session.run(None, {"x": x.numpy()})[0])
        return torch.from_numpy(self.session([x.numpy()])[0])


def onnx_of(model: nn.Module, example: Tensor) -> bytes:
    """Export a network to ONNX, for images of exactly this shape: input `x`, output `y`.

    Raises:
        ModelError: it cannot be exported, or the packages for it are not installed.
    """
    if not all(find_spec(package) for package in EXPORTING):
        raise ModelError("exporting needs more packages: pip install 'slimcnn[export]'")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), undisturbed(model):
        warnings.simplefilter("ignore")  # the exporter's own, about its insides
        path = Path(folder) / "network.onnx"
        try:
            torch.onnx.export(
                model, (example,), str(path), dynamo=True, input_names=["x"], output_names=["y"],
                opset_version=18, external_data=False, verbose=False,
            )  # fmt: skip
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(f"{type(model).__name__} cannot be exported to ONNX: {reason}") from error
        return path.read_bytes()


def open_in(runtime: str, onnx: bytes, threads: int | None = None) -> nn.Module:
    """Give an exported network as `onnxruntime` or `openvino` runs it on the CPU.

    Raises:
        ModelError: the runtime is not known or not installed.

    >>> open_in("tflite", b"")
    Traceback (most recent call last):
    slimcnn.errors.ModelError: there is no runtime 'tflite' here: choose from ...
    """
    refuse_absent(runtime)
    threads = threads or torch.get_num_threads()
    if runtime == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        return Exported(session, runtime)
    os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")
    import openvino

    core = openvino.Core()
    core.set_property({"INFERENCE_NUM_THREADS": threads})
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    return Exported(core.compile_model(core.read_model(io.BytesIO(onnx)), "CPU", hints), runtime)


def refuse_absent(runtime: str) -> None:
    """Raise `ModelError` for a runtime that is not known or not installed."""
    if runtime not in installed():
        hint = f", or pip install {runtime}" if runtime in RUNTIMES else ""
        raise ModelError(f"there is no runtime {runtime!r} here: choose from {', '.join(installed())}{hint}")
