"""Render sections as HTML fragments for `_repr_html_` in notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from slimcnn.reporting.comparison import Row
from slimcnn.reporting.layout import lay_out, template
from slimcnn.reporting.sections import Section


def section_html(sections: Iterable[Section]) -> str:
    """Render sections as an HTML fragment with a scoped style that does not affect the rest of the page.

    >>> from slimcnn.reporting.sections import Text
    >>> html = section_html([Section(title="Notes", blocks=[Text(text="1 < 2")])])
    >>> "1 &lt; 2" in html, "<html" in html
    (True, False)
    """
    return fragment("", "", sections)


def fragment(title: str, headline: str, sections: Iterable[Section]) -> str:
    """Render a title, a headline and sections as an HTML fragment."""
    return template("fragment.html").render(
        title=title, headline=headline, verdict=(), broken=False, rows=(), sections=lay_out(sections)
    )


def comparison(title: str, headline: str, verdict: Sequence[str], broken: bool, rows: Sequence[Row]) -> str:
    """Render title, headline, verdict and table of a run as an HTML fragment; `broken`: the cut is not exact."""
    return template("fragment.html").render(
        title=title, headline=headline, verdict=verdict, broken=broken, rows=rows, sections=()
    )
