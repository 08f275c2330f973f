"""From sections to HTML: figures drawn, places in links given, values written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from slimcnn.reporting import formatting
from slimcnn.reporting.figures import Drawing, Panel, drawing_of, house_style
from slimcnn.reporting.sections import Figure, Section, Table, Text

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True)
class Drawn:
    """A figure, drawn."""

    drawing: Drawing
    panels: list[Panel]
    kind: str = "figure"


@dataclass(frozen=True)
class Laid:
    """A section as the templates need it."""

    title: str
    anchor: str
    """Unlike that of any other section on the page."""
    blocks: list[Text | Table | Drawn]


def lay_out(sections: Iterable[Section], taken: Sequence[str] = (), ids: str = "f") -> list[Laid]:
    """Draw all figures, and give every section a place in links that is not in `taken`.

    `ids` begins every id within the pictures. An id has an underscore, an anchor never has one.
    """
    used = set(taken)
    laid: list[Laid] = []
    figures = 0
    with house_style():
        for section in sections:
            anchor = _unused(section.anchor or "section", used)
            blocks: list[Text | Table | Drawn] = []
            for block in section.blocks:
                if isinstance(block, Figure):
                    figures += 1
                    drawing = drawing_of(block)
                    blocks.append(Drawn(drawing, drawing.panels(f"{ids}{figures}_")))
                else:
                    blocks.append(block)
            laid.append(Laid(section.title, anchor, blocks))
    return laid


def _unused(anchor: str, used: set[str]) -> str:
    """Number an anchor that is used already, and remember it."""
    found, number = anchor, 1
    while found in used:
        number += 1
        found = f"{anchor}-{number}"
    used.add(found)
    return found


@cache
def template(name: str) -> Template:
    """Load one of the templates, with the phrases that it may use."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("slimcnn.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for say in (
        formatting.write,
        formatting.whole,
        formatting.count,
        formatting.size,
        formatting.percent,
        formatting.milliseconds,
        formatting.duration,
        formatting.plural,
        formatting.points,
        formatting.ratio,
        formatting.distance,
    ):
        environment.globals[say.__name__] = say
    return environment.get_template(name)
