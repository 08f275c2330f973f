"""Render sections and reports for a terminal, with rich."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from slimcnn.reporting import formatting
from slimcnn.reporting import sections as parts
from slimcnn.reporting.comparison import rows, verdict_in_words
from slimcnn.reporting.curve import curve_in_words, sizes_of
from slimcnn.reporting.schema import CurveReport, Report

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

STYLES = {"plain": "", "note": "dim", "good": "green", "bad": "bold red", "code": ""}
"""Style of a paragraph by its tone."""


def tables(sections: Iterable[parts.Section], all: bool = False) -> list[RenderableType]:
    """Render headings, paragraphs and tables, with `all` also folded tables; figures are left out."""
    from rich.text import Text

    found: list[RenderableType] = []
    for section in sections:
        blocks: list[RenderableType] = []
        for block in section.blocks:
            if isinstance(block, parts.Text):
                blocks.append(Text(block.text, style=STYLES[block.tone]))
            elif isinstance(block, parts.Table) and (all or not block.folded):
                blocks.append(_table(block))
        if blocks:
            # Text, not str: rich would parse [brackets] in a name as markup.
            found += [Text(f"\n{section.title}", style="bold"), *blocks]
    return found


def summary(report: Report | CurveReport) -> list[RenderableType]:
    """Render the warnings in red, the verdict as sentences, then the table."""
    from rich.text import Text

    warnings = [Text(warning, style=STYLES["bad"]) for warning in report.warnings]
    if isinstance(report, CurveReport):
        return [*warnings, *(Text(sentence) for sentence in curve_in_words(report)), _curve(report)]
    table = _empty(report.title)
    table.add_column("")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows(report):
        table.add_row(row.name, row.before, Text(row.after, style="bold"), row.change)
    return [*warnings, *(Text(sentence) for sentence in verdict_in_words(report)), table]


def _table(block: parts.Table) -> Table:
    from rich.text import Text

    table = _empty(block.title)
    for column in block.columns:
        words = column.format in ("text", "name")
        table.add_column(Text(column.title), justify="left" if words else "right", overflow="fold")
    for row in block.rows:
        cells = zip(row, block.columns, strict=True)
        table.add_row(*(Text(formatting.write(value, column.format)) for value, column in cells))
    return table


def _curve(report: CurveReport) -> Table:
    from rich.text import Text

    table = _empty(report.title)
    table.add_column("size", overflow="fold")
    for heading in (report.metric.title, report.metric.change_unit or "change", "MACs", "params", "ms"):
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for size in sizes_of(report):
        table.add_row(Text(size.label), size.score, size.change, size.macs, size.params, size.latency)
    return table


def _empty(title: str) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    return Table(title=Text(title) if title else None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
