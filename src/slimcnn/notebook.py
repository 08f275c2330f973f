"""Small HTML tables for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

SHOWN = 30
"""Maximum number of rows shown; the last row counts the others."""


def html_table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Render an HTML table; numbers are right-aligned, all text is escaped.

    >>> html_table("a < b", ["x"], [[1000]])
    '<table><caption>a &lt; b</caption><tr><th>x</th></tr><tr><td style="text-align:right">1,000</td></tr></table>'
    """
    rows = list(rows)
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[:SHOWN])
    if len(rows) > SHOWN:
        body += f'<tr><td colspan="{len(headings)}">... and {len(rows) - SHOWN:,} more</td></tr>'
    return f"<table><caption>{escape(caption)}</caption><tr>{head}</tr>{body}</table>"


def _cell(value: object) -> str:
    if isinstance(value, int | float):
        return f'<td style="text-align:right">{f"{value:,}" if isinstance(value, int) else f"{value:.4g}"}</td>'
    return f'<td style="text-align:left">{escape(str(value))}</td>'
