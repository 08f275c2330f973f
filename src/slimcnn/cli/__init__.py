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
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        typer.echo(
            f"slimcnn: not enough memory ({str(error).splitlines()[0] if str(error) else 'none is left'}): use smaller "
            "images, smaller batches or fewer images (--limit)",
            err=True,
        )
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an allocation failed: on the CPU, PyTorch raises a plain `RuntimeError`.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or any(part in str(error) for part in words)


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
