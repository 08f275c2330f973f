"""The command line: one function per command. Slow imports happen inside the functions."""

from __future__ import annotations

import sys

import typer

from slimcnn.cli import running  # first: its commands come first in --help

# isort: split
from slimcnn.cli import benchmarking, exporting, looking, playing, quantizing, verifying
from slimcnn.cli.app import app
from slimcnn.cli.running import Interrupted
from slimcnn.errors import SlimcnnError

__all__ = ["benchmarking", "exporting", "looking", "main", "playing", "quantizing", "running", "verifying"]


def main() -> None:
    """Run the command line; user errors print one line and exit with code 2."""
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
