"""Images with the answers of two networks side by side."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Annotated, ClassVar

from pydantic import Field

from slimcnn.reporting.figures.drawing import Drawing, Panel, figures
from slimcnn.reporting.sections import Part

WIDE = 240
"""Width of a picture in CSS pixels; small pictures are enlarged."""

Jpeg = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/=]+$", max_length=4_000_000)]
"""A JPEG file in base64."""

Color = Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")]


class Pictured(Part):
    """One image of the test part."""

    title: str
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    names: tuple[str, ...]
    """Labels, reference, compressed."""
    jpegs: tuple[Jpeg, ...]
    """A picture for each name."""


@figures.add("side_by_side", source="slimcnn")
class SideBySide(Drawing):
    """Test images with the labels, and with the answers of the networks before and after."""

    layout: ClassVar[str] = "panels three"

    examples: tuple[Pictured, ...]
    classes: tuple[str, ...] = ()
    colors: tuple[Color, ...] = ()
    """One for each class."""

    def panels(self, name: str) -> list[Panel]:
        """Draw one panel for each picture, and one with the colors of the classes."""
        found = [
            Panel(title if not number else "", "", _svg(example, title, jpeg))
            for number, example in enumerate(self.examples)
            for title, jpeg in zip(example.names, example.jpegs, strict=False)
        ]
        legend = list(zip(self.classes, self.colors, strict=False))
        return [*found, Panel("Classes", "", _legend(legend))] if legend else found

    @property
    def caption(self) -> str:
        """Say what the pictures show."""
        return "Images of the test part, evenly spread: the labels, and what both networks answer."


def _svg(example: Pictured, title: str, jpeg: str) -> str:
    high = round(WIDE * example.height / example.width)
    return (
        f'<svg viewBox="0 0 {WIDE} {high}" width="{WIDE}" height="{high}" role="img">'
        f"<title>{escape(f'{example.title}: {title}')}</title>"
        f'<image width="{WIDE}" height="{high}" href="data:image/jpeg;base64,{jpeg}"/></svg>'
    )


def _legend(classes: Sequence[tuple[str, str]]) -> str:
    lines = [
        f'<rect x="0" y="{18 * place + 2}" width="12" height="12" fill="{color}"/>'
        f'<text x="18" y="{18 * place + 12}" style="fill: var(--ink); font-size: 11px">{escape(name)}</text>'
        for place, (name, color) in enumerate(classes)
    ]
    high = 18 * len(classes) + 4
    label = escape(", ".join(name for name, _ in classes))
    return (
        f'<svg viewBox="0 0 {WIDE} {high}" width="{WIDE}" height="{high}" role="img"><title>Classes: {label}</title>'
        f"{''.join(lines)}</svg>"
    )
