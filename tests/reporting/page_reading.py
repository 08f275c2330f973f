"""A strict reader of pages that shares no code with what writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser

from synthetic_reports import CURVES, REPORTS, full, hostile_names

from slimcnn.reporting import render, render_curve, render_page

VOID = frozenset("meta link br hr img input".split())


@dataclass(frozen=True)
class Element:
    """A tag with its attributes, and the text directly and indirectly inside."""

    tag: str
    attributes: dict[str, str]
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


class Page(HTMLParser):
    """Elements in order; `faults` lists every tag that is not opened and closed as it should be."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self.faults: list[str] = []
        self._open: list[Element] = []
        self.feed(html)
        self.close()
        self.faults += [f"<{element.tag}> is never closed" for element in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if len({name for name, _ in attrs}) != len(attrs):
            self.faults.append(f"<{tag}> has an attribute twice: {attrs}")
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1].tag != tag:
            self.faults.append(f"</{tag}> at {self.getpos()} closes {self._open[-1].tag if self._open else 'nothing'}")
            return
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.texts.append(data)

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    def part(self, name: str) -> Element:
        """The section with this id."""
        (found,) = (element for element in self.elements if element.attributes.get("id") == name)
        return found

    @property
    def text(self) -> str:
        """All that a reader can read, in one line."""
        return self.all("body")[0].text


def fresh_html_of(name: str) -> str:
    """A synthetic page: of a run, of a curve, or of a view."""
    if name in REPORTS:
        return render(REPORTS[name]())
    if name in CURVES:
        return render_curve(CURVES[name]())
    return render_page("A view", "What was seen", (*full().sections, *hostile_names().sections))


@cache
def html_of(name: str) -> str:
    """A synthetic page, drawn once per test process."""
    return fresh_html_of(name)


@cache
def page_of(name: str) -> Page:
    return Page(html_of(name))
