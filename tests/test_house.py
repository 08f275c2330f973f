"""The house: who may know whom, and a public face that can be read aloud."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import slimcnn

SOURCE = Path(slimcnn.__file__).parent
FREE = {"digests", "errors", "registry", "files", "modes", "process_ids", "notebook", "importing", "show"}
BELOW = {"checkpoints", "datasets", "distillation", "exporting", "graph", "layers", "linear", "manifest", "measuring",
         "models", "objectives", "pruning", "recovery", "reporting", "rewriting", "searching", "tasks",
         "training"}  # fmt: skip
ALLOWED = {
    "errors": set(),
    "registry": {"errors", "importing"},
    "files": {"errors", "process_ids"},
    "process_ids": set(),
    "manifest": set(),
    "digests": set(),
    "modes": set(),
    "notebook": set(),
    "importing": {"errors"},
    "show": set(),
    "layers": {"errors", "registry"},
    "objectives": {"layers"},
    "graph": {"layers", "measuring"},  # when tensors are alive
    "measuring": set(),
    "exporting": {"measuring"},
    "models": {"layers"},
    "datasets": set(),
    "distillation": {"datasets", "objectives"},
    "linear": {"graph"},
    "rewriting": {"graph", "layers", "linear", "models"},
    "recovery": {"graph", "layers", "linear", "pruning"},
    "tasks": {"datasets", "distillation", "measuring", "objectives"},
    "training": {"datasets", "objectives", "tasks"},
    "pruning": {
        "exporting",
        "graph",
        "linear",
        "measuring",
        "objectives",
    },  # times of layers; soft pruning chooses filters inside of a training
    "searching": {"datasets", "graph", "pruning", "tasks", "training"},
    "reporting": set(),
    "checkpoints": {"graph", "layers", "models"},
    "running": BELOW,  # not steps: they come by the registry
    "steps": BELOW | {"running"},
    "benchmarking": {"checkpoints", "datasets", "exporting", "measuring", "reporting", "running", "tasks", "training"},
    "views": BELOW | {"benchmarking", "running"},  # the registry of steps, to list them
    "playground": {"checkpoints", "datasets", "exporting", "reporting", "running"},
    "verifying": BELOW | {"running"},
    "studying": BELOW | {"benchmarking", "running"},
    "cli": BELOW | {"benchmarking", "playground", "running", "steps", "studying", "verifying", "views"},
    "__init__": BELOW | {"benchmarking", "running", "studying", "verifying"},
}
"""Who may know whom. The free rooms may be known by all."""


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


def module_of(path: Path) -> str:
    return ".".join(("slimcnn", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_of(path) for path in SOURCE.rglob("*.py")}


def imported_modules(path: Path) -> set[str]:
    """Modules that a file imports anywhere, inside of functions too; not what only a type checker reads."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unread = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if node in unread:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("slimcnn"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
    return found - {module_of(path)}


def types_defined_in(path: Path) -> list[str]:
    """Classes, and names of types written out at the top of a file; options of the command line are `Annotated`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        option = isinstance(value, ast.Subscript) and ast.unparse(value.value) == "Annotated"
        if isinstance(target, ast.Name) and isinstance(value, ast.Subscript | ast.BinOp) and not option:
            found += [target.id] if not target.id.isupper() else []
    return [name for name in found if not name.startswith("_")]


def test_no_two_classes_or_types_share_a_name() -> None:
    homes: dict[str, list[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for name in types_defined_in(path):
            homes.setdefault(name, []).append(str(path.relative_to(SOURCE)))
    shared = {name: places for name, places in homes.items() if len(places) > 1}
    assert not shared


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_knows_only_the_rooms_below_it(room: str) -> None:
    files = [path for path in SOURCE.rglob("*.py") if room_of(path) == room]
    assert files, f"no room {room}"
    for path in files:
        strangers = imported_rooms(path) - ALLOWED[room] - FREE - {room}
        assert not strangers, f"{path} imports {strangers}"


def test_every_room_is_in_the_map() -> None:
    assert {room_of(path) for path in SOURCE.rglob("*.py")} == set(ALLOWED)


def test_no_circle_of_imports_exists_inside_a_room_either() -> None:
    graph = {module_of(path): imported_modules(path) - {"slimcnn"} for path in SOURCE.rglob("*.py")}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_public_names_are_sorted_complete_and_importable() -> None:
    assert slimcnn.__all__ == sorted(slimcnn.__all__)
    for name in slimcnn.__all__:
        assert getattr(slimcnn, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = slimcnn.nonsense


def test_importing_the_command_line_does_not_import_torch() -> None:

    code = "import sys, slimcnn.cli; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_every_folder_of_the_package_is_a_package() -> None:
    for path in SOURCE.rglob("*.py"):
        importlib.import_module(module_of(path))


def test_modules_that_the_documentation_names_are_there_right_after_the_import() -> None:
    line = "import slimcnn; print(slimcnn.steps.Prune.__name__, slimcnn.show.SILENT, slimcnn.errors.RunError.__name__)"
    found = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("Prune Show(")
