"""What pages, terminals and JSON are made of: sections of text, tables and figures, as data.

A step of a run and a view each give sections. A value in a table is a number with a format, never a string that was
made from one: the page, the terminal and the notebook write it, JSON keeps it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator


class Part(BaseModel):
    """A part of a report: read-only, no unknown fields."""

    # A number that is not finite is written as "NaN" or "Infinity": bare, it is not JSON.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


Format = Literal[
    "text", "name", "count", "exact", "bytes", "percent", "points", "share", "small", "seconds", "milliseconds", "shape"
]
"""How a column's values are written:

- text: as is; name: a layer or a setting, in fixed width;
- count: four digits with k, M, G; exact: every digit; bytes: kB, MB;
- percent: two decimals; points: a difference of percentages, with its sign; share: 0.5 is written 0.500;
- small: a number of unknown magnitude, three digits;
- seconds: as a clock would tell them; milliseconds; shape: 16 × 32 × 32.
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
    tone: Literal["plain", "note", "good", "bad"] = "plain"
    """note: small print; good and bad: a verdict, in a frame."""


class Table(Part):
    """Rows of values; every row has one value per column."""

    kind: Literal["table"] = "table"
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    title: str = ""
    folded: bool = False
    """The page shows the title, and the rows on request; a terminal leaves the table out unless all are asked for."""

    @field_validator("rows")
    @classmethod
    def _fit_columns(cls, rows: tuple[tuple[Value, ...], ...], info: ValidationInfo) -> tuple[tuple[Value, ...], ...]:
        columns: tuple[Column, ...] = info.data.get("columns", ())
        for row in rows if columns else ():
            if len(row) != len(columns):
                raise ValueError(f"a row has {len(row)} values for {len(columns)} columns: {row!r:.200}")
        return tuple(tuple(map(_number, row, columns)) for row in rows) if columns else rows


def _number(value: Value, column: Column) -> Value:
    """Make of JSON's "NaN" a number again; refuse other strings where numbers are promised."""
    if not isinstance(value, str) or column.format in ("text", "name"):
        return value
    if value not in ("NaN", "Infinity", "-Infinity"):
        raise ValueError(f"column {column.title!r} has the format {column.format}, found {value!r:.200}: give a number")
    return float(value)


class Figure(Part):
    """A picture that is drawn when the page is rendered."""

    kind: Literal["figure"] = "figure"
    figure: str
    """Its name in the registry of figures ..."""
    data: dict[str, Any]
    """... and what is drawn, as that figure's file declares it."""


class Section(Part):
    """A part of the page with a heading.

    >>> Section(title="Filter norms", blocks=[Text(text="KS is the largest distance.")]).anchor
    'filter-norms'
    """

    title: str
    blocks: tuple[Annotated[Text | Table | Figure, Field(discriminator="kind")], ...] = ()

    @property
    def anchor(self) -> str:
        """The section's place in a link."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")
