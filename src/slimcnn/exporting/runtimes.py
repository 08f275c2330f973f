"""Runtimes that run exported files: their requirements, and opened files as modules."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.errors import ExportError, UnknownName
from slimcnn.exporting.quiet import quiet
from slimcnn.importing import one_line
from slimcnn.measuring.latency import check_threads


@dataclass(frozen=True)
class Runtime:
    """A program that runs exported files, and its requirements."""

    title: str
    packages: tuple[str, ...]
    """Modules that it needs."""
    extra: str
    """slimcnn's extra that installs it; empty if nothing is needed."""
    here: str = ""
    """Required operating system (`sys.platform`); empty: any."""
    without_torch: bool = True
    """Whether its Python interface works without PyTorch."""


RUNTIMES: Mapping[str, Runtime] = {
    "onnxruntime": Runtime("ONNX Runtime", ("onnxruntime",), "export"),
    "openvino": Runtime("OpenVINO", ("openvino",), "openvino"),
    "executorch": Runtime("ExecuTorch", ("executorch",), "mobile", without_torch=False),
    "ncnn": Runtime("ncnn", ("ncnn",), "mobile"),
    "coreml": Runtime("Core ML", ("coremltools",), "mobile", here="darwin"),
    "torch": Runtime("PyTorch", (), "", without_torch=False),
}
"""Runtimes by name; `readers/NAME.py` opens a runtime's files."""


def missing(packages: tuple[str, ...]) -> list[str]:
    """Return the modules that are not installed.

    >>> missing(("json", "no_such_module"))
    ['no_such_module']
    """
    return [package for package in packages if find_spec(package) is None]


def why_not(runtime: str) -> str:
    """Return why a runtime cannot run on this machine; empty if it can.

    Raises:
        UnknownName: the runtime is unknown.

    >>> why_not("torch")
    ''
    """
    import sys

    if runtime not in RUNTIMES:
        raise UnknownName("runtime", runtime, RUNTIMES)
    known = RUNTIMES[runtime]
    if known.here and sys.platform != known.here:
        return f"{known.title} does not run on {sys.platform}"
    absent = missing(known.packages)
    return f"{known.title} needs {', '.join(absent)}: pip install 'slimcnn[{known.extra}]'" if absent else ""


def reader_of(runtime: str) -> Path:
    """Return the standalone file that opens a runtime's models (see `readers`)."""
    return Path(__file__).parent / "readers" / f"{runtime}.py"


class Opened(nn.Module):
    """An exported file as a module, called like the original network with CPU tensors `(n, c, h, w)`."""

    def __init__(self, predict: Callable[..., Any], runtime: str) -> None:
        super().__init__()
        self.predict, self.runtime = predict, runtime

    def forward(self, *inputs: Tensor) -> Any:
        """Run the file; return its output, or a tuple of its outputs."""
        found = self.predict(*[x.detach().cpu().numpy() for x in inputs])
        if isinstance(found, tuple):
            return tuple(torch.from_numpy(one) for one in found)
        return torch.from_numpy(found)


def open_in(runtime: str, path: Path | str, threads: int | None = None) -> Opened:
    """Open an exported file in a runtime, on the CPU.

    Args:
        runtime: a key of `RUNTIMES`.
        path: the file, or the first of its files: `model.onnx`, `model.xml`.
        threads: CPU threads; None: as many as PyTorch uses.

    Raises:
        UnknownName: the runtime is unknown.
        ModelError: more than 1,024 threads.
        ExportError: the runtime is not installed, does not run on this machine, or cannot open the file.

    >>> open_in("tflite", "model.tflite")
    Traceback (most recent call last):
    slimcnn.errors.UnknownName: unknown runtime 'tflite': Known: coreml, executorch, ncnn, onnxruntime, openvino, torch
    """
    reason = why_not(runtime)
    if reason:
        raise ExportError(reason)
    if threads is not None:
        check_threads(threads)
    if not Path(path).exists():
        raise ExportError(f"no file {path} for {RUNTIMES[runtime].title}: export the network first")
    reader = importlib.import_module(f"slimcnn.exporting.readers.{runtime}")
    try:
        with quiet():
            return Opened(reader.open_model(str(path), threads or torch.get_num_threads()), runtime)
    except Exception as error:
        raise ExportError(f"{RUNTIMES[runtime].title} cannot open {path}: {one_line(error)}") from error
