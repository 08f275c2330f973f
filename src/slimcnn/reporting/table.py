"""The before/after table for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slimcnn.reporting.comparison import rows
from slimcnn.reporting.contents import Report

if TYPE_CHECKING:
    from rich.table import Table


def summary_table(report: Report) -> Table:
    """Both networks in five numbers, as a table that rich can print."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # Text, not str: rich would read [brackets] in a name as markup.
    table = Table(title=Text(report.title), box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows(report.before, report.after):
        table.add_row(row.name, row.before, Text(row.after, style="bold"), row.change)
    return table
