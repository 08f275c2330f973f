"""A terminal shows what the page shows."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable

import pytest
from page_reading import page_of
from rich.console import Console, RenderableType
from synthetic_reports import CURVES, HOSTILE, REPORTS, curve, full, hostile_names, tiny

from slimcnn.reporting import summary, tables
from slimcnn.reporting.comparison import rows, verdict_in_words
from slimcnn.reporting.curve import curve_in_words, sizes_of
from slimcnn.reporting.page import render, render_curve
from slimcnn.reporting.sections import Column, Figure, Section, Table, Text


def printed(found: Iterable[RenderableType], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for one in found:
        console.print(one)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def lines_of(text: str) -> list[str]:
    return [line for line in (" ".join(line.split()) for line in text.splitlines()) if line]


def test_a_terminal_shows_the_verdict_and_then_the_six_numbers() -> None:
    lines = lines_of(printed(summary(tiny()), width=200))
    assert lines[:5] == verdict_in_words(tiny())
    assert lines[5] == "tiny on digits"
    assert lines[8:] == [
        "top-1, % 98.61 97.50 −1.11 points",
        "parameters 19.44 k 9.713 k × 0.50",
        "MACs 1.235 M 611.0 k × 0.49",
        "bytes on disk 81.23 kB 42.10 kB × 0.52",
        "running memory 16.38 kB 12.29 kB × 0.75",
        "latency, ms 0.812 0.543 × 0.67",
    ]


@pytest.mark.parametrize("name", REPORTS)
def test_page_and_terminal_say_the_same(name: str) -> None:
    report = REPORTS[name]()
    text, page = printed(summary(report), width=2000), page_of(name).part("comparison").text
    for row in rows(report):
        for cell in (row.name, row.before, row.after, row.change):
            assert cell in page
            assert cell in text
    for sentence in verdict_in_words(report):
        assert sentence in page
        assert sentence in text


WORSE = "recalibrate lowered validation top-1: 91.00 -> 88.50 %; leave recalibrate out"


def test_a_step_that_lowered_accuracy_is_said_in_red_in_the_terminal_on_the_page_and_in_a_notebook() -> None:
    report = tiny().model_copy(update={"warnings": (WORSE,)})
    sizes = curve()
    points = tuple(point.model_copy(update={"warnings": (WORSE,)}) for point in sizes.points)
    sizes = sizes.model_copy(update={"points": points})
    red = f'<div class="verdict broken">\n<p>{html.escape(WORSE)}</p>'
    for found, page in ((report, render(report)), (sizes, render_curve(sizes))):
        first = summary(found)[0]
        assert (str(first), first.style) == (WORSE, "bold red")  # type: ignore[union-attr]
        assert red in page
        assert page.count(html.escape(WORSE)) == 1
    assert red in report._repr_html_()
    assert "verdict broken" not in render(tiny())


@pytest.mark.parametrize("name", CURVES)
def test_page_and_terminal_say_the_same_of_a_curve(name: str) -> None:
    report = CURVES[name]()
    text, page = printed(summary(report), width=2000), page_of(name).part("comparison").text
    for sentence in curve_in_words(report):
        assert sentence in page
        assert sentence in text
    for size in sizes_of(report):
        for cell in (size.label, size.score, size.change, size.macs, size.params, size.latency):
            assert cell in page
            assert cell in text


def test_brackets_are_no_markup() -> None:
    name = "[bold]plain[/nothing]"
    column, text = Column(title=name), Text(text=name)
    section = Section(title=name, blocks=(text, Table(title=name, columns=(column,), rows=((name,),))))
    assert printed(tables([section])).count(name) == 5
    assert name in printed(summary(tiny().model_copy(update={"title": name})))


def test_the_table_fits_into_a_narrow_terminal() -> None:
    for report in (tiny(), curve()):
        text = printed(summary(report), width=60)
        assert "9.713 k" in text or "7.776 k" in text
        assert max(len(line) for line in text.splitlines()) <= 60


def test_values_that_do_not_fit_are_folded_and_none_is_lost() -> None:
    columns = (Column(title="layer", format="name"), *(Column(title="n", format="exact") for _ in range(8)))
    table = Table(columns=columns, rows=(("features.conv1", *(123456 + n for n in range(8))),))
    text = printed(tables([Section(title="Wide", blocks=(table,))]), width=50)
    digits = [character for character in text if character.isdigit() and character != "1"]
    wanted = [
        character for n in range(8) for character in f"{123456 + n:,}" if character.isdigit() and character != "1"
    ]
    assert sorted(digits) == sorted(wanted)
    assert max(len(line) for line in text.splitlines()) <= 50


def test_folded_tables_are_shown_only_where_all_are_asked_for() -> None:
    table = Table(title="Rows", columns=(Column(title="n", format="exact"),), rows=((1234,),), folded=True)
    sections = [Section(title="Folded", blocks=(table,))]
    assert printed(tables(sections)) == ""
    assert "1,234" in printed(tables(sections, all=True))


def test_sections_are_told_in_their_order_with_texts_and_tables_and_without_figures() -> None:
    lines = lines_of(printed(tables(full().sections), width=200))
    titles = [
        section.title
        for section in full().sections
        if any(not isinstance(block, Figure) and not getattr(block, "folded", False) for block in section.blocks)
    ]
    assert [line for line in lines if line in titles] == titles
    assert "conv1 as is 1.235 M 1,234,567 4.321 kB 93.39 −0.37 0.500 2.1e−15 3 min 20 s 18.42 16 × 8 × 8" in lines


def test_hostile_names_are_shown_as_they_are() -> None:
    assert HOSTILE in printed(tables(hostile_names().sections, all=True), width=400)
