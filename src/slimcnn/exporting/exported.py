"""Records of exported files: `parity.json` in their folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimcnn.errors import ExportError
from slimcnn.exporting.parity import Parity
from slimcnn.files import kind_of, write_text

PARITY = "parity.json"


@dataclass(frozen=True)
class ExportedFile:
    """An exported file and the result of its parity check."""

    format: str
    runtime: str
    path: Path
    """The file to open."""
    files: tuple[Path, ...]
    bytes: int
    parity: Parity
    source: str
    """Digest of the network's weights (`source_digest`)."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Input, classes, normalization, opset; the names of a detector's outputs."""

    def __str__(self) -> str:
        return f"{self.path} ({self.bytes:,} bytes): {self.parity}"


def read_parity(folder: Path | str) -> dict[str, dict[str, Any]]:
    """Return the entries of a folder's parity.json by format; empty if the file does not exist.

    Raises:
        ExportError: the file is damaged.
    """
    path = Path(folder) / PARITY
    if kind_of(path, ExportError) == "nothing":
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for name, entry in found.items():
            _check_entry(name, entry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ExportError(f"{path} is damaged ({error}): delete it and export again") from error
    return found  # type: ignore[no-any-return]


def _check_entry(name: str, entry: Any) -> None:
    """Raise `TypeError` or `KeyError` unless an entry has what its readers need."""
    facts, files = entry.get("facts", {}), entry["files"]
    right = (
        isinstance(facts, dict)
        and isinstance(files, dict) and files
        and isinstance(entry["source"], str) and isinstance(entry["status"], str)
        and isinstance(entry["images"], int) and isinstance(entry["max_error"], int | float | None)
        and isinstance(facts.get("input", []), list)
        and (not facts.get("normalization") or {"mean", "std"} <= facts["normalization"].keys())
    )  # fmt: skip
    if not right:
        raise TypeError(f"the entry {name!r} has an invalid value")


def record(folder: Path | str, name: str, entry: Mapping[str, Any]) -> Path:
    """Add or replace one entry in the folder's parity.json."""
    path = Path(folder) / PARITY
    write_text(path, json.dumps(read_parity(folder) | {name: dict(entry)}, indent=1) + "\n")
    return path


def how_to_run(name: str, path: Path | str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return two lines of Python that run a file without slimcnn; empty for formats of other runtimes.

    Args:
        name: the format.
        path: the file's path, as it should appear in the code.
        entry: the file's entry in parity.json.

    >>> print(*how_to_run("onnx", "model.onnx", {"facts": {"dtype": "float32", "input": ["n", 3, 32, 32]}}), sep="\\n")
    import onnxruntime; network = onnxruntime.InferenceSession("model.onnx")
    scores = network.run(None, {"input": images})[0]  # images: float32 (n, 3, 32, 32)
    """
    facts = entry.get("facts", {})
    shape = ", ".join(map(str, facts.get("input", ())))
    detected = ", ".join(facts.get("outputs", ()))
    given = "image" if detected else "images"
    comment = f"  # {given}: {facts.get('dtype', 'float32')} ({shape}){_from_pixels(facts.get('normalization'))}"
    hints = '{"INFERENCE_PRECISION_HINT": "f32"}'
    lines = {
        "onnx": (
            f'import onnxruntime; network = onnxruntime.InferenceSession("{path}")',
            f'{detected or "scores"} = network.run(None, {{"input": {given}}}){"" if detected else "[0]"}',
        ),
        "openvino": (
            f'import openvino; network = openvino.compile_model("{path}", "CPU", {hints})',
            f"{detected} = network(image).to_tuple()" if detected else "scores = network(images)[0]",
        ),
    }
    return (lines[name][0], lines[name][1] + comment) if name in lines else ()


def _from_pixels(normalization: Mapping[str, Any] | None) -> str:
    """Return how the input is computed from pixels, as a part of a comment.

    >>> _from_pixels({"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]})
    ', pixels / 255'
    """
    if not normalization:
        return ""
    mean, std = ([round(each, 6) for each in normalization[name]] for name in ("mean", "std"))
    return f", (pixels / 255 - {mean}) / {std}" if any(mean) or set(std) != {1.0} else ", pixels / 255"


def refuse_another(folder: Path, source: str, force: bool) -> None:
    """Refuse a folder with an export of another network; with `force`, drop its entries from parity.json.

    Raises:
        ExportError: the folder holds an export of another network, and `force` is False.
    """
    others = sorted(name for name, entry in read_parity(folder).items() if entry.get("source") != source)
    if others and not force:
        raise ExportError(
            f"{folder} holds an export of another network ({', '.join(others)}): choose another --out, or --force"
        )
    if others:
        kept = {name: entry for name, entry in read_parity(folder).items() if name not in others}
        write_text(folder / PARITY, json.dumps(kept, indent=1) + "\n")
