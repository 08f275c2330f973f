"""Draw the pictures of docs/methods, which illustrate ideas and show no measurements."""

from __future__ import annotations

from pathlib import Path

BLUE, RED, GREEN, GRAY = "#4477aa", "#ee6677", "#228833", "#bbbbbb"


def fpdf() -> str:
    """Sorted norms in quantile groups; one filter of each group stays."""
    norms = [12, 16, 22, 27, 31, 36, 44, 52, 57, 66, 80, 96]
    shapes = [
        text(10, 20, "pruning by norm keeps the largest"),
        text(330, 20, "FPDF keeps one filter of every quantile group"),
    ]
    for column, kept in ((10, set(range(6, 12))), (330, {1, 2, 5, 6, 9, 10})):
        for i, norm in enumerate(norms):
            shapes.append(box(column + i * 24, 150 - norm, 18, norm, BLUE if i in kept else GRAY))
        if column > 10:
            shapes += [line(column + i * 48 - 3, 40, column + i * 48 - 3, 156) for i in range(1, 6)]
    shapes.append(text(10, 178, "filters of a layer, sorted by norm; gray: removed"))
    return page(640, 190, shapes)


def gfr() -> str:
    """A gate after every batch norm; its average becomes part of the scale."""
    shapes = chain(40, ["conv", "batch norm: γ, β", "× sr", "ReLU"], (BLUE, BLUE, RED, BLUE))
    shapes += [box(130, 96, 176, 34, RED), text(218, 118, "pool, two small layers", "cell")]
    shapes += [arrow(160, 78, 160, 94), arrow(278, 94, 278, 79), text(320, 118, "trained; its moving average is sr")]
    shapes += chain(150, ["conv", "batch norm: sr·γ, sr·β", "ReLU"], (BLUE, GREEN, BLUE))
    shapes.append(text(400, 175, "after folding"))
    return page(640, 200, shapes)


def feature_reuse() -> str:
    """Half of the features are computed, the others are reused."""
    shapes = [text(10, 20, "convolution"), text(330, 20, "unit: half computed, half reused")]
    shapes += [box(20, 40, 40, 120, GRAY), box(160, 40, 40, 120, BLUE), arrow(66, 100, 152, 100)]
    shapes += [box(340, 40, 40, 60, GRAY), box(520, 40, 40, 60, GRAY), box(520, 102, 40, 60, BLUE)]
    shapes += [arrow(386, 70, 512, 70), arrow(386, 80, 512, 130), text(420, 62, "reused"), text(400, 140, "computed")]
    shapes.append(text(10, 182, "as many output features as before, half of the work"))
    return page(640, 195, shapes)


def scale_factor() -> str:
    """Plain distillation compares whole distributions; the scale factor compares each class with the right one."""
    shapes = []
    for column, title, heights in ((10, "teacher", [96, 60, 44, 14]), (330, "student", [96, 40, 52, 20])):
        shapes.append(text(column, 20, title))
        for i, (name, height) in enumerate(zip(("cat", "lynx", "dog", "car"), heights, strict=True)):
            shapes += [
                box(column + i * 60, 136 - height, 40, height, BLUE if i == 0 else RED),
                text(column + i * 60 + 20, 154, name, "middle"),
            ]
    shapes.append(
        text(
            10, 180, "compared: each red class relative to the right class (blue), weighted by the teacher's closeness"
        )
    )
    return page(640, 192, shapes)


def compact_spatial() -> str:
    """A 3x3 convolution is split into a depthwise 3x3 and a 1x1."""
    shapes = chain(30, ["3x3: filters and mixes channels"], (BLUE,))
    shapes.append(text(300, 52, "9·C·C multiplications per pixel"))
    shapes += chain(100, ["depthwise 3x3: filters", "1x1: mixes channels"], (RED, GREEN))
    shapes.append(text(430, 122, "9·C + C·C"))
    return page(640, 160, shapes)


def compact_shift() -> str:
    """A shift moves each channel by one pixel; the 1x1 behind it mixes them."""
    shapes = [text(10, 20, "each channel moves by its own displacement: no parameters, no multiplications")]
    for i, (dx, dy) in enumerate(((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))):
        x, y = 20 + i * 84, 60
        shapes += [box(x, y, 60, 60, "none"), box(x + 20 + 10 * dx, y + 20 + 10 * dy, 20, 20, BLUE)]
        if dx or dy:
            shapes.append(arrow(x + 30, y + 30, x + 30 + 24 * dx, y + 30 + 24 * dy))
    shapes += [arrow(440, 90, 474, 90), box(480, 72, 130, 36, GREEN), text(545, 95, "1x1: mixes channels", "cell")]
    return page(640, 150, shapes)


def box(x: float, y: float, width: float, height: float, fill: str) -> str:
    """A rectangle."""
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="3" fill="{fill}" class="box"/>'


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """A line of text."""
    return f'<text x="{x}" y="{y}" class="{kind}">{words}</text>'


def line(x: float, y: float, to_x: float, to_y: float) -> str:
    """A dashed line."""
    return f'<path d="M{x} {y}L{to_x} {to_y}" class="line" stroke-dasharray="4 3"/>'


def arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    """An arrow."""
    return f'<path d="M{x} {y}L{to_x} {to_y}" class="line" marker-end="url(#tip)"/>'


def chain(y: float, names: list[str], colors: tuple[str, ...]) -> list[str]:
    """Boxes in a row, joined by arrows."""
    shapes, x = [], 10.0
    for i, (name, color) in enumerate(zip(names, colors, strict=True)):
        width = 24 + 7.2 * len(name)
        shapes += [box(x, y, width, 36, color), text(x + width / 2, y + 23, name, "cell")]
        shapes += [arrow(x + width + 2, y + 18, x + width + 24, y + 18)] if i + 1 < len(names) else []
        x += width + 28
    return shapes


def page(width: int, height: int, shapes: list[str]) -> str:
    """The picture, on white paper: it is read in light and in dark pages."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">'
        "<style>text{font:13px sans-serif;fill:#222}.cell{fill:#fff;text-anchor:middle}.middle{text-anchor:middle}"
        ".line{stroke:#555;fill:none;stroke-width:1.5}.box{stroke:#555;stroke-width:.5}</style>"
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto">'
        '<path d="M0,0 L6,3 L0,6" fill="#555"/></marker></defs>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(shapes)}</svg>\n'
    )


PICTURES = {draw.__name__: draw for draw in (fpdf, gfr, feature_reuse, scale_factor, compact_spatial, compact_shift)}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        Path(__file__).with_name(f"{name}.svg").write_text(draw(), encoding="utf-8")
