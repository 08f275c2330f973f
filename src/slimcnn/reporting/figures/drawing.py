"""The base of all figures: data, panels, and the conversion of matplotlib axes to inline SVG.

The page sets fonts and colors, also in dark mode: a drawing uses colors by meaning (`AFTER`), and its SVG contains
`var(--after)`. Text stays text. There are no external references.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ValidationError

from slimcnn.errors import RunError
from slimcnn.registry import Registry
from slimcnn.reporting.outcome import MetricName
from slimcnn.reporting.sections import Figure, Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Placeholder colors, each replaced by a variable of the style sheet.
INK, MUTED, RULE, BEFORE, AFTER = "#010203", "#020304", "#030405", "#040506", "#050607"
ALARM = "#060708"
_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", BEFORE: "--before", AFTER: "--after", ALARM: "--alarm"}

PIXELS_PER_INCH = 72  # so that a matplotlib point is a CSS pixel

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "slimcnn",
    "svg.image_inline": True,
    "text.parse_math": False,  # a layer may be called $x$
    "axes.unicode_minus": True,
    "font.size": 10,
    "axes.edgecolor": RULE,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.labelcolor": MUTED,
}


@dataclass(frozen=True)
class Panel:
    """An SVG with its heading."""

    title: str
    note: str
    svg: str


class Drawing(Part, ABC):
    """A figure: its fields are the data, `panels` draws them.

    Register the class with `@figures.add(name, source=...)`. Sections refer to it by name; JSON stores its data.
    """

    layout: ClassVar[str] = "panels three"
    """CSS class of the grid of panels: "panels three", "panels four", "panels wide" or "columns"."""
    key: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Color key for figures without a legend: (text, classes of the style sheet)."""

    @abstractmethod
    def panels(self, name: str) -> list[Panel]:
        """Draw the panels, within `house_style`; `name` is the prefix of all ids, unique on the page."""

    @property
    def caption(self) -> str:
        """How to read the figure, in one or two sentences; empty if the panels are clear."""
        return ""

    def block(self) -> Figure:
        """Return the figure as a block of a section."""
        name = next(entry.name for entry in figures if entry.value is type(self))
        # Through JSON, so that the block equals the one that is read back, also with non-finite numbers.
        return Figure(figure=name, data=json.loads(self.model_dump_json()))


figures: Registry[type[Drawing]] = Registry("figure", home="slimcnn.reporting.figures")
"""All figures by name, one file of this folder each."""


def drawing_of(block: Figure) -> Drawing:
    """Build the drawing of a section's figure from its data.

    Raises:
        UnknownName: there is no such figure.
        RunError: the data do not match the figure's fields.
    """
    try:
        return figures[block.figure].value.model_validate(block.data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        raise RunError(
            f"figure {block.figure!r} cannot be drawn: {place}: {first['msg']}; pass the fields of "
            f"{figures[block.figure].value.__name__}"
        ) from error


@contextmanager
def house_style() -> Iterator[None]:
    """Use these matplotlib settings within the block instead of the user's; restore them afterwards."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # The browser draws the text, so glyphs that are missing from matplotlib's font do not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def picture(
    draw: Callable[[Axes], None],
    *,
    name: str,
    label: str,
    width: float,
    height: float,
    margins: tuple[float, float, float, float],
) -> str:
    """Draw an SVG of `width` × `height` CSS pixels; call it within `house_style`.

    `name` must be unique on the page, `label` describes the figure for screen readers, and `margins` are the pixels
    to the left of, above, to the right of and below the axes.
    """
    from matplotlib.figure import Figure

    left, above, right, below = margins
    figure = Figure(figsize=(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH), dpi=PIXELS_PER_INCH)
    figure.patch.set_visible(False)
    box = (left / width, below / height, (width - left - right) / width, (height - above - below) / height)
    axes = figure.add_axes(box)
    axes.patch.set_visible(False)
    draw(axes)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    opening = (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img">'
        f"<title>{escape(label)}</title>"
    )
    return opening + _body(buffer.getvalue(), name) + "</svg>"


def beside(axes: Axes, words: str, x: float, y: float, shift: float, color: str, size: float = 10) -> None:
    """Write text that ends `shift` pixels to the right of a point (to the left if negative)."""
    axes.annotate(
        words,
        (x, y),
        xytext=(shift, 0),
        textcoords="offset points",
        ha="right",
        va="center_baseline",
        color=color,
        fontsize=size,
    )


def around(values: Sequence[float], room: float, metric: MetricName) -> tuple[float, float]:
    """Return the ends of an axis of a metric: the values, with a share of their range as room on both sides.

    The room is at least half a point, or 5 % of what is no percentage, so that noise does not look like a trend.

    >>> around([90.0, 91.0], 0.25, MetricName()), around([0.2, 0.2], 0.25, MetricName(name="error", unit=""))
    ((89.5, 91.5), (0.19, 0.21000000000000002))
    """
    low, high = min(values), max(values)
    pad = max(room * (high - low), 0.5 if metric.unit == "%" else 0.05 * max(abs(low), abs(high)) or 1.0)
    return low - pad, high + pad


def _body(svg: str, name: str) -> str:
    """Return the content between <svg> and </svg>, without metadata and style sheets, with ids unique on the page."""
    inside = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    inside = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", inside, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', inside))
    # < and > are escaped in text, so that every match is a tag.
    inside = re.sub(r"<[^<>]*>", lambda tag: _tag(tag.group(), name, used), inside)
    return re.sub(r">\s+<", "><", inside).strip()


def _tag(tag: str, name: str, used: set[str]) -> str:
    """Rewrite a tag: unique ids, variables for colors, the page's font, two decimals."""
    tag = " ".join(tag.split())
    tag = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", tag)
    tag = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", tag).replace("xlink:href", "href")
    for color, variable in _VARIABLES.items():
        tag = tag.replace(color, f"var({variable})")
    # Some versions of matplotlib write "font: 10px 'DejaVu Sans', ...", others "font-size: 10px; font-family: ...".
    tag = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?| transform=\"rotate\(-?0 [^\"]*\"", "", tag)
    return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number.group()):.2f}".rstrip("0").rstrip("."), tag)
