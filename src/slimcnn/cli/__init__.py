"""The command line: one small function per command; everything heavy is imported inside it."""

from __future__ import annotations

import sys

import typer

from slimcnn.cli import looking, running
from slimcnn.cli.app import app
from slimcnn.cli.running import Interrupted
from slimcnn.errors import SlimcnnError

__all__ = ["looking", "main", "running"]


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2."""
    try:
        app()
    except SlimcnnError as error:
        typer.echo(f"slimcnn: {error}", err=True)
        sys.exit(2)
    except Interrupted:
        typer.echo("slimcnn: interrupted; the same command goes on from here", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
