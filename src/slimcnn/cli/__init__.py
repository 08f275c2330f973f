"""The command line: one function per command. Slow imports happen inside the functions."""

from __future__ import annotations

import sys
import warnings
from typing import TextIO

import typer

from slimcnn.cli import running  # first: its commands come first in --help

# isort: split
from slimcnn.cli import benchmarking, exporting, looking, playing, quantizing, verifying
from slimcnn.cli.app import app
from slimcnn.cli.running import Interrupted
from slimcnn.errors import Note, SlimcnnError

__all__ = ["benchmarking", "exporting", "looking", "main", "playing", "quantizing", "running", "verifying"]


def main() -> None:
    """Run the command line; user errors print one line and exit with code 2."""
    warnings.showwarning = _show_warning
    try:
        app(args=imports_first(sys.argv[1:]))
    except SlimcnnError as error:
        typer.echo(f"slimcnn: {error}", err=True)
        sys.exit(2)
    except Interrupted:
        typer.echo("slimcnn: interrupted; run the same command to resume", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


_show_any_warning = warnings.showwarning


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
    line: str | None = None,
) -> None:  # fmt: skip
    """Print a `Note` as one line, any other warning as Python does."""
    if issubclass(category, Note):
        typer.echo(f"slimcnn: note: {message}", err=True)
    else:
        _show_any_warning(message, category, filename, lineno, file, line)


def imports_first(arguments: list[str]) -> list[str]:
    """Move --import, which users may write anywhere, in front of the command.

    >>> imports_first(["run", "r.toml", "--import", "mine", "--json"])
    ['--import', 'mine', 'run', 'r.toml', '--json']
    """
    found: list[str] = []
    rest: list[str] = []
    given = iter(arguments)
    for argument in given:
        if argument == "--import":
            found += [argument, next(given, "")]
        elif argument.startswith("--import="):
            found.append(argument)
        else:
            rest.append(argument)
    return [*found, *rest]
