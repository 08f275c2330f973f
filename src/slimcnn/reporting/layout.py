"""Prepare sections for the HTML templates: draw figures, assign anchors, provide formatters."""

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
class DrawnFigure:
    """A figure with its drawn panels."""

    drawing: Drawing
    panels: list[Panel]
    kind: str = "figure"


@dataclass(frozen=True)
class LaidOutSection:
    """A section in the form that the templates use."""

    title: str
    anchor: str
    """Unique on the page."""
    blocks: list[Text | Table | DrawnFigure]


def lay_out(sections: Iterable[Section], taken: Sequence[str] = (), ids: str = "f") -> list[LaidOutSection]:
    """Draw all figures, and assign each section a unique anchor that is not in `taken`.

    `ids` is the prefix of all ids in the figures. Ids have an underscore, anchors never have one.
    """
    used = set(taken)
    laid: list[LaidOutSection] = []
    figures = 0
    with house_style():
        for section in sections:
            anchor = _unused(section.anchor or "section", used)
            blocks: list[Text | Table | DrawnFigure] = []
            for block in section.blocks:
                if isinstance(block, Figure):
                    figures += 1
                    drawing = drawing_of(block)
                    blocks.append(DrawnFigure(drawing, drawing.panels(f"{ids}{figures}_")))
                else:
                    blocks.append(block)
            laid.append(LaidOutSection(section.title, anchor, blocks))
    return laid


def _unused(anchor: str, used: set[str]) -> str:
    """Return the anchor, numbered if it is already used, and add it to `used`."""
    found, number = anchor, 1
    while found in used:
        number += 1
        found = f"{anchor}-{number}"
    used.add(found)
    return found


@cache
def template(name: str) -> Template:
    """Load a template, with the formatters that it may use."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("slimcnn.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for formatter in (
        formatting.write,
        formatting.whole,
        formatting.count,
        formatting.size,
        formatting.percent,
        formatting.milliseconds,
        formatting.duration,
        formatting.plural,
        formatting.capital,
        formatting.points,
        formatting.ratio,
        formatting.distance,
    ):
        environment.globals[formatter.__name__] = formatter
    return environment.get_template(name)
