"""Units of feature reuse: input, computed features and reused features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from slimcnn.reporting import formatting
from slimcnn.reporting.figures.drawing import AFTER, BEFORE, INK, MUTED, Drawing, Panel, figures, picture
from slimcnn.reporting.sections import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 240, 150
MARGINS = (8, 20, 8, 20)
BAR = 0.36
MOST = 8
"""Maximum number of panels; units of the same form share one."""


class ReuseUnit(Part):
    """A unit of feature reuse: input and output channels of its convolutions, and the reused features."""

    place: str
    reads: tuple[int, ...] = Field(min_length=1)
    makes: tuple[int, ...] = Field(min_length=1)
    reused: Literal["input", "first", "half"]
    dense: bool
    residual: str
    """"sum", "joined" or empty."""


@figures.add("units", source="slimcnn")
class Units(Drawing):
    """Units of feature reuse: input, computed features and reused features."""

    units: tuple[ReuseUnit, ...]

    def panels(self, name: str) -> list[Panel]:
        """Draw one panel per form of unit, at most eight; the height of a bar is its number of channels."""
        forms: dict[tuple[object, ...], list[ReuseUnit]] = {}
        for unit in self.units:
            forms.setdefault((unit.reads, unit.makes, unit.reused, unit.dense, unit.residual), []).append(unit)
        return [_panel(same, f"{name}{number}") for number, same in enumerate(list(forms.values())[:MOST])]

    @property
    def caption(self) -> str:
        """Explain bars and arrows."""
        words = (
            "Convolutions compute new features; y concatenates them with reused features (dashed). The height of a bar "
            "is its number of channels."
        )
        return words + " In a residual block x is added to y." * any(unit.residual == "sum" for unit in self.units)


def _panel(same: Sequence[ReuseUnit], name: str) -> Panel:
    unit = same[0]
    passed_on = {"input": unit.reads[0], "first": unit.makes[0], "half": unit.makes[-1]}[unit.reused]
    new = list(unit.makes if unit.dense else unit.makes[-1:])
    if unit.dense and unit.reused == "first":
        new = new[1:]
    whole = passed_on + sum(new)
    bars = [unit.reads[0], *unit.makes]
    source = 1 if unit.reused == "first" else 0
    highest = max(*bars, whole)

    def draw(axes: Axes) -> None:
        for place, width in enumerate(bars):
            color = BEFORE if place == 0 else AFTER
            axes.bar(place, width, BAR, bottom=-width / 2, color=color, alpha=0.45 if place == 0 else 1)
            _label(axes, place, width, "x" if place == 0 else f"f{place}", highest)
            if place:
                axes.annotate(
                    "",
                    (place - BAR / 2, 0),
                    (place - 1 + BAR / 2, 0),
                    arrowprops={"arrowstyle": "->", "color": MUTED, "linewidth": 1},
                )
        end = len(bars)
        axes.bar(end, passed_on, BAR, bottom=-whole / 2, color=BEFORE if source == 0 else AFTER, alpha=0.45)
        bottom = passed_on - whole / 2
        for width in new:
            axes.bar(end, width, BAR, bottom=bottom, color=AFTER)
            bottom += width
        _label(axes, end, whole, "y", highest)
        axes.annotate(
            "", (end - BAR / 2, (passed_on - whole) / 2), (source + BAR / 2, -bars[source] / 4),
            arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 1, "linestyle": (0, (2, 2)),
                        "connectionstyle": "arc3,rad=0.15"},
        )  # fmt: skip
        axes.annotate(
            "",
            (end - BAR / 2, (whole - new[-1]) / 2),
            (end - 1 + BAR / 2, 0),
            arrowprops={"arrowstyle": "->", "color": MUTED, "linewidth": 1},
        )
        axes.set_axis_off()
        axes.set_xlim(-0.5, len(bars) + 0.5)
        axes.set_ylim(-highest * 0.55, highest * 0.55)

    more = f" and {len(same) - 1} more" if len(same) > 1 else ""
    what = {"input": "its input", "first": "f1", "half": "half of its input"}[unit.reused]
    note = f"{passed_on} of {whole} channels are {what}" + (", added to x" if unit.residual == "sum" else "")
    label = f"{unit.place}{more}: convolutions make {', '.join(map(str, unit.makes))} channels; {note}"
    svg = picture(draw, name=name, label=label, width=WIDTH, height=HEIGHT, margins=MARGINS)
    return Panel(formatting.short_name(unit.place) + more, note, svg)


def _label(axes: Axes, place: int, width: int, name: str, highest: int) -> None:
    for words, height, color in ((str(width), 0.55, INK), (name, -0.62, MUTED)):
        axes.annotate(words, (place, height * highest), ha="center", va="center", color=color, annotation_clip=False)
