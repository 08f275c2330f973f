"""Output of commands: tables or JSON on stdout; progress goes to stderr."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
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


def print_names(kinds: dict[str, list[dict[str, str]]], *, sources: bool) -> None:
    """Print names with their counts, one line each; with `sources`, a second line says where each comes from."""
    width = min(shutil.get_terminal_size((80, 40)).columns, 120)
    for kind, entries in kinds.items():
        typer.echo(f"{kind} ({len(entries)})")
        column = max(len(entry["name"]) for entry in entries) + 4
        for entry in entries:
            typer.echo(f"  {entry['name']}".ljust(column) + _cut(entry["summary"], width - column))
            if sources and entry["source"]:
                typer.echo(" " * column + f"[{entry['source']}]")
    if not sources:
        typer.echo("\nslimcnn list KIND adds the sources; slimcnn list prune lists the settings of a step")


def _cut(text: str, width: int) -> str:
    """Leave out references, and cut a text at a word, so that it fits.

    >>> _cut("Remove the least important channels", 24)
    'Remove the least ...'
    """
    text = re.sub(r" ?\([^()]*\b(?:arXiv|(?:19|20)\d\d)\b[^()]*\)", "", text)  # a line of its own says the source
    return textwrap.shorten(text.rstrip("."), max(width, 20), placeholder=" ...")
