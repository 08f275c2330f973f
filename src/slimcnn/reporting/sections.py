"""Sections of text, tables and figures as data, for pages, terminals, notebooks and JSON.

Each step of a run and each view returns sections. A table holds numbers with a format, never formatted strings: the
page, the terminal and the notebook format them, JSON stores them.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator


class Part(BaseModel):
    """A part of a report: read-only, no unknown fields."""

    # Non-finite numbers are written as strings, "NaN" or "Infinity": the bare words are not valid JSON.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


Format = Literal[
    "text", "name", "count", "exact", "bytes", "percent", "points", "share", "small", "signed", "seconds",
    "milliseconds", "shape",
]  # fmt: skip
"""The format of a column's values:

- text: unchanged; name: a layer or a setting, in a monospaced font;
- count: four digits with k, M, G; exact: all digits; bytes: kB, MB;
- percent: two decimals; points: a difference of percentages, with its sign; share: three decimals, 0.500;
- small: a number of any magnitude, three digits; signed: a difference of such numbers, with its sign;
- seconds: 3 min 20 s; milliseconds; shape: 16 × 32 × 32.
"""

Value = str | int | float | tuple[int, ...] | None
"""None is an empty cell."""


class Column(Part):
    """A column of a table."""

    title: str
    format: Format = "text"


class Text(Part):
    """A paragraph."""

    kind: Literal["text"] = "text"
    text: str
    tone: Literal["plain", "note", "good", "bad", "code"] = "plain"
    """note: small print; good and bad: a framed verdict; code: lines to copy."""


class Table(Part):
    """Rows of values; every row has one value per column."""

    kind: Literal["table"] = "table"
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    title: str = ""
    folded: bool = False
    """The page shows the rows on demand; a terminal shows the table only if all tables are requested."""

    @field_validator("rows")
    @classmethod
    def _fit_columns(cls, rows: tuple[tuple[Value, ...], ...], info: ValidationInfo) -> tuple[tuple[Value, ...], ...]:
        columns: tuple[Column, ...] = info.data.get("columns", ())
        for row in rows if columns else ():
            if len(row) != len(columns):
                raise ValueError(f"a row has {len(row)} values for {len(columns)} columns: {row!r:.200}")
        return tuple(tuple(map(_number, row, columns)) for row in rows) if columns else rows


def _number(value: Value, column: Column) -> Value:
    """Convert JSON's "NaN" back to a number; reject other strings in columns of numbers."""
    if not isinstance(value, str) or column.format in ("text", "name"):
        return value
    if value not in ("NaN", "Infinity", "-Infinity"):
        raise ValueError(f"column {column.title!r} has the format {column.format}, found {value!r:.200}: give a number")
    return float(value)


class Figure(Part):
    """A figure that is drawn when the page is rendered."""

    kind: Literal["figure"] = "figure"
    figure: str
    """Name in the registry of figures."""
    data: dict[str, Any]
    """The fields of that figure's class."""


class Section(Part):
    """A part of the page with a heading.

    >>> Section(title="Filter norms", blocks=[Text(text="KS is the largest distance.")]).anchor
    'filter-norms'
    """

    title: str
    blocks: tuple[Annotated[Text | Table | Figure, Field(discriminator="kind")], ...] = ()

    @property
    def anchor(self) -> str:
        """The section's anchor in links."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")
