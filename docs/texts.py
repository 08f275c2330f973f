"""Print everything that a user reads or writes: public names, options, recipe keys, help and messages.

    python docs/texts.py            # all of it
    python docs/texts.py messages   # only one part: names, options, messages or docstrings

Read the list aloud before a release; docs/glossary.md says which word means what.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import slimcnn

SOURCE = Path(slimcnn.__file__).parent


def names() -> Iterator[str]:
    """Public names, and the settings of every step as a recipe writes them."""
    from slimcnn.running import steps

    yield from slimcnn.__all__
    for entry in steps:
        yield from (f"{entry.name}.{field}" for field in entry.value.model_fields)


def options() -> Iterator[str]:
    """Every command, option and help text."""
    import typer

    from slimcnn.cli import app

    group = typer.main.get_command(app)
    for name, command in sorted(group.commands.items()):  # type: ignore[attr-defined]
        yield f"{name}: {(command.help or '').splitlines()[0]}"
        for parameter in command.params:
            yield f"    {' '.join(parameter.opts)}: {getattr(parameter, 'help', '') or ''}"


def messages() -> Iterator[str]:
    """Strings in `raise`, with {} for what is filled in."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                for argument in node.exc.args:
                    if text := written(argument):
                        yield f"{path.relative_to(SOURCE)}:{node.lineno}: {text}"


def docstrings() -> Iterator[str]:
    """The first line of every docstring."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                name = getattr(node, "name", "")
                yield f"{path.relative_to(SOURCE)} {name}: {text.splitlines()[0]}"


def written(node: ast.expr) -> str:
    """A string or f-string as its author wrote it; empty for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(written(part) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return ""


PARTS = {"names": names, "options": options, "messages": messages, "docstrings": docstrings}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        print(f"\n# {part}\n")
        print(*PARTS[part](), sep="\n")
