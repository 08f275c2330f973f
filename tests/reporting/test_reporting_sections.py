"""Sections: data that survives JSON, and tables that hold numbers."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError
from synthetic_reports import REPORTS, full, not_finite

from slimcnn.reporting.formatting import write
from slimcnn.reporting.sections import Column, Section, Table, Value


@pytest.mark.parametrize("name", REPORTS)
def test_sections_come_back_from_json(name: str) -> None:
    for section in REPORTS[name]().sections:
        again = Section.model_validate_json(section.model_dump_json())
        assert again.model_dump_json() == section.model_dump_json()
        finite = "NaN" not in section.model_dump_json() and "Infinity" not in section.model_dump_json()
        assert again == section or not finite
        assert [type(block) for block in again.blocks] == [type(block) for block in section.blocks]


def test_numbers_that_are_not_finite_are_numbers_again() -> None:
    columns = (Column(title="word"), Column(title="number", format="small"))
    table = Table(columns=columns, rows=(("NaN", math.nan), ("Infinity", -math.inf)))
    again = Table.model_validate_json(table.model_dump_json())
    assert [type(value) for row in again.rows for value in row] == [str, float, str, float]
    assert [write(row[1], "small") for row in again.rows] == ["—", "−∞"]


@pytest.mark.parametrize("value", ["93 %", "1,234", ""])
def test_a_string_where_a_number_is_promised_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match=r"column 'top-1' has the format percent, found .* give a number"):
        Table(columns=(Column(title="top-1", format="percent"),), rows=((value,),))


@pytest.mark.parametrize("row", [(), (1, 2)])
def test_a_row_that_does_not_fit_the_columns_is_refused(row: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match=f"a row has {len(row)} values for 1 columns"):
        Table(columns=(Column(title="n", format="exact"),), rows=(row,))


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (None, "percent", ""),
        ("as is", "text", "as is"),
        (7, "text", "7"),
        (0.5, "text", "0.5"),
        ("conv1", "name", "conv1"),
        (math.nan, "count", "—"),
        (1234567, "exact", "1,234,567"),
        (-0.37, "points", "−0.37"),
        (0.5, "share", "0.500"),
        ((16, 8, 8), "shape", "16 × 8 × 8"),
        ((), "shape", "—"),
    ],
)
def test_values_are_written_as_their_column_says(value: Value, form: str, text: str) -> None:
    assert write(value, form) == text  # type: ignore[arg-type]


def test_a_shape_in_a_column_of_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cannot write \(1, 2\) as percent"):
        write((1, 2), "percent")


def test_reports_keep_what_the_steps_say_in_order() -> None:
    assert [section.title for section in full().sections][:4] == [
        "Widths",
        "Filter norms",
        "Layer by layer",
        "Distillation",
    ]
    assert not_finite().sections[0].anchor == "filter-norms"
