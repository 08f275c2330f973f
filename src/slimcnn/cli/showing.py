"""What a command says: tables or JSON on stdout, progress on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from slimcnn.start import Show


def print_json(data: Any) -> None:
    """Print for machines."""
    typer.echo(json.dumps(data, indent=1))


def print_tables(tables: list[Any]) -> None:
    """Print for people."""
    from rich.console import Console

    console = Console()
    for table in tables:
        console.print(table)


@contextmanager
def showing(quiet: bool) -> Iterator[Show]:
    """Say what happens on stderr; a bar moves all the while, and counts where there is something to count."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from slimcnn.start import Show

    console = Console(stderr=True, quiet=quiet, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet) as bars:
        working = bars.add_task("working", total=None)
        counting = bars.add_task("", total=1, visible=False)

        def say(text: str) -> None:
            console.print(text, markup=False)

        def progress(what: str, done: int, total: int) -> None:
            bars.update(counting, description=what, completed=done, total=total, visible=done < total)
            bars.update(working, visible=done == total)

        yield Show(say=say, progress=progress)
