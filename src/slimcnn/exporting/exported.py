"""What is known of exported files: `parity.json` in their folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimcnn.errors import ExportError
from slimcnn.exporting.parity import Parity
from slimcnn.files import write_text

PARITY = "parity.json"


@dataclass(frozen=True)
class ExportedFile:
    """A network in a file for a runtime, and what was found when it was opened again."""

    format: str
    runtime: str
    path: Path
    """The file that is opened."""
    files: tuple[Path, ...]
    bytes: int
    parity: Parity
    source: str
    """Digest of the network's weights (`source_digest`)."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Input, classes, normalization, opset."""

    def __str__(self) -> str:
        return f"{self.path} ({self.bytes:,} bytes): {self.parity}"


def read_parity(folder: Path | str) -> dict[str, dict[str, Any]]:
    """Read what is known of a folder's exports, by format; empty where there are none.

    Raises:
        ExportError: the file is damaged.
    """
    path = Path(folder) / PARITY
    if not path.exists():
        return {}
    try:
        found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} is damaged ({error}): delete it and export again") from error
    return found


def record(folder: Path | str, name: str, entry: Mapping[str, Any]) -> Path:
    """Write what is known of one export into the folder's parity.json, beside the others."""
    path = Path(folder) / PARITY
    write_text(path, json.dumps(read_parity(folder) | {name: dict(entry)}, indent=1) + "\n")
    return path


def how_to_run(name: str, path: Path | str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Give the two lines of Python that run a file without slimcnn; none for runtimes of phones.

    Args:
        name: the format.
        path: the file, as it is to be written in the code.
        entry: what parity.json holds of it.

    >>> print(*how_to_run("onnx", "model.onnx", {"facts": {"dtype": "float32", "input": ["n", 3, 32, 32]}}), sep="\\n")
    import onnxruntime; network = onnxruntime.InferenceSession("model.onnx")
    scores = network.run(None, {"input": images})[0]  # images: float32 (n, 3, 32, 32)
    """
    facts = entry.get("facts", {})
    shape = ", ".join(map(str, facts.get("input", ())))
    normal = facts.get("normalization")
    made = f", (pixels / 255 - {normal['mean']}) / {normal['std']}" if normal else ""
    images = f"  # images: {facts.get('dtype', 'float32')} ({shape}){made}"
    hints = '{"INFERENCE_PRECISION_HINT": "f32"}'
    lines = {
        "onnx": (
            f'import onnxruntime; network = onnxruntime.InferenceSession("{path}")',
            'scores = network.run(None, {"input": images})[0]',
        ),
        "openvino": (
            f'import openvino; network = openvino.compile_model("{path}", "CPU", {hints})',
            "scores = network(images)[0]",
        ),
    }
    return (lines[name][0], lines[name][1] + images) if name in lines else ()


def refuse_another(folder: Path, source: str, force: bool) -> None:
    """Refuse a folder that holds the export of another network; with `force`, forget what is known of it.

    Raises:
        ExportError: it does.
    """
    others = sorted(name for name, entry in read_parity(folder).items() if entry.get("source") != source)
    if others and not force:
        raise ExportError(
            f"{folder} holds an export of another network ({', '.join(others)}): choose another --out, or --force"
        )
    if others:
        kept = {name: entry for name, entry in read_parity(folder).items() if name not in others}
        write_text(folder / PARITY, json.dumps(kept, indent=1) + "\n")
