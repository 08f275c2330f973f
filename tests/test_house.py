"""The house: who may know whom, and a public face that can be read aloud."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import slimcnn

SOURCE = Path(slimcnn.__file__).parent
FREE = {"errors", "registry", "files", "process_ids", "notebook", "importing"}
ALLOWED = {
    "errors": set(),
    "registry": {"errors", "importing"},
    "files": {"errors", "process_ids"},
    "process_ids": set(),
    "notebook": set(),
    "importing": {"errors"},
    "layers": {"errors", "registry"},
    "objectives": {"errors"},
    "graph": {"layers"},
    "measuring": set(),
    "models": {"layers"},
    "datasets": set(),
    "distillation": {"objectives"},
    "sparsity": {"layers", "objectives"},
    "linear": {"graph"},
    "rewriting": {"graph", "layers", "linear", "models"},
    "recovery": {"graph", "layers", "linear", "pruning"},
    "training": {"datasets", "objectives"},
    "pruning": {"graph", "linear"},
    "searching": {"datasets", "graph", "pruning", "training"},
    "reporting": set(),
    "checkpoints": {"graph", "layers", "models"},
}
"""Rooms that are not listed here stand above all others and may know everything below them."""


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("slimcnn."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("slimcnn.")}
    return found


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_knows_only_the_rooms_below_it(room: str) -> None:
    files = [path for path in SOURCE.rglob("*.py") if room_of(path) == room]
    assert files, f"no room {room}"
    for path in files:
        strangers = imported_rooms(path) - ALLOWED[room] - FREE - {room}
        assert not strangers, f"{path} imports {strangers}"


def test_public_names_are_sorted_complete_and_importable() -> None:
    assert slimcnn.__all__ == sorted(slimcnn.__all__)
    for name in slimcnn.__all__:
        assert getattr(slimcnn, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = slimcnn.nonsense


def test_importing_the_command_line_does_not_import_torch() -> None:
    import subprocess
    import sys

    code = "import sys, slimcnn.cli; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_every_folder_of_the_package_is_a_package() -> None:
    for path in SOURCE.rglob("*.py"):
        importlib.import_module(".".join(("slimcnn", *path.relative_to(SOURCE).with_suffix("").parts)))
