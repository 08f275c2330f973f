"""Fragments for notebooks: whole, escaped, and without effect on what is around them."""

from __future__ import annotations

import re

import pytest
from page_reading import Page
from synthetic_reports import REPORTS, full, tiny

from slimcnn.reporting import fragment, section_html, verdict_in_words
from slimcnn.reporting.comparison import rows


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_in_a_notebook_is_headline_verdict_and_table(name: str) -> None:
    report = REPORTS[name]()
    page = Page(f"<body>{report._repr_html_()}</body>")
    assert page.faults == []
    assert all(sentence in page.text for sentence in verdict_in_words(report))
    assert all(cell in page.text for row in rows(report) for cell in (row.before, row.after))
    assert page.all("script") == []
    verdict = next(e.attributes["class"] for e in page.elements if "verdict" in e.attributes.get("class", ""))
    assert verdict == ("verdict broken" if report.verdict is not None and not report.verdict.equal else "verdict")


@pytest.mark.parametrize("name", REPORTS)
def test_sections_in_a_notebook_are_those_of_the_page(name: str) -> None:
    sections = REPORTS[name]().sections
    page = Page(f"<body>{section_html(sections)}</body>")
    assert page.faults == []
    assert [heading.text for heading in page.all("h2")] == [" ".join(section.title.split()) for section in sections]
    assert page.all("script") == []


def test_a_fragment_has_title_and_headline_and_no_head_of_its_own() -> None:
    html = fragment("A <title>", "What was & found", full().sections)
    page = Page(f"<body>{html}</body>")
    assert page.faults == []
    assert "A <title> What was & found" in page.text
    assert not re.search(r"<(html|head|body|link|meta)\b", html)
    assert not re.search(r"https?:|@import|url\([^#]", html)


def test_the_style_of_a_fragment_touches_nothing_outside_it() -> None:
    (style,) = re.findall(r"<style>(.*?)</style>", section_html([]), flags=re.DOTALL)
    selectors = [one.strip() for rule in re.findall(r"([^{}]+)\{", style) for one in rule.split(",")]
    assert len(selectors) > 20
    assert all(selector == ".slimcnn" or selector.startswith(".slimcnn ") for selector in selectors)


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_a_line_or_two_in_a_console(name: str) -> None:
    report = REPORTS[name]()
    assert repr(report) == str(report)
    assert len(repr(report)) < 400
    assert repr(tiny()) == (
        "Report(tiny on digits: 0.49 of the MACs, 0.50 of the parameters, top-1 98.61 → 97.50 (−1.11))"
    )
