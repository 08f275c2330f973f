"""The table for terminals shows what the page shows."""

from __future__ import annotations

import io

import pytest
from page_reading import page_of
from rich.console import Console
from synthetic_reports import REPORTS, tiny

from slimcnn.reporting import summary_table
from slimcnn.reporting.comparison import rows


def _printed(name: str, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(summary_table(REPORTS[name]()))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_a_terminal_shows_the_five_numbers() -> None:
    lines = [" ".join(line.split()) for line in _printed("tiny").splitlines()]
    assert [line for line in lines if line][3:] == [
        "top-1, % 98.61 97.50 −1.11 points",
        "parameters 19.44 k 9.713 k × 0.50",
        "MACs 1.235 M 611.0 k × 0.49",
        "bytes on disk 81.23 kB 42.10 kB × 0.52",
        "latency, ms 0.812 0.543 × 0.67",
    ]


@pytest.mark.parametrize("name", REPORTS)
def test_page_and_terminal_say_the_same(name: str) -> None:
    report, printed, page = REPORTS[name](), _printed(name), page_of(name).part("comparison").text
    for row in rows(report.before, report.after):
        for cell in (row.name, row.before, row.after, row.change):
            assert cell in page
            assert cell in printed


def test_brackets_in_a_title_are_no_markup() -> None:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(summary_table(tiny().model_copy(update={"title": "[bold]plain[/nothing]"})))
    assert "[bold]plain[/nothing]" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_fits_into_a_narrow_terminal() -> None:
    assert "× 0.50" in _printed("tiny", width=60)
    assert max(len(line) for line in _printed("tiny", width=60).splitlines()) <= 60
