"""Output of commands: tables or JSON on stdout; progress goes to stderr."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from slimcnn.views import View


def print_json(data: Any) -> None:
    """Print data as JSON."""
    typer.echo(json.dumps(data, indent=1))


def print_tables(found: list[Any]) -> None:
    """Print rich tables."""
    from rich.console import Console

    console = Console()
    for table in found:
        console.print(table)


def print_view(view: View, as_json: bool, *, page: Path | None = None) -> None:
    """Print a view as tables or JSON; if `page` is given, write it as an HTML page too."""
    from slimcnn.files import write_text
    from slimcnn.reporting import render_page, tables

    if page is not None:
        write_text(page, render_page(view.title, view.headline, view.sections))
    if as_json:
        print_json(view.data)
        return
    typer.echo(view.headline)
    print_tables(tables(view.sections))
    if page is not None:
        typer.echo(page)
