"""Draw the picture of docs/graph.md from the graph that `trace` finds: python docs/pictures/graph.py."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import slimcnn

COLORS = ["#4477aa", "#ee6677", "#228833"]
LOCKED = "#bbbbbb"
CELL, ROW, LEFT, TOP = 26, 78, 150, 34


class Five(nn.Module):
    """The network of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 1, bias=False)
        self.split = nn.Conv2d(4, 6, 1, bias=False)
        self.grouped = nn.Conv2d(6, 6, 1, groups=2, bias=False)
        self.back = nn.Conv2d(6, 4, 1, bias=False)
        self.head = nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, h, w) -> (n, 2)."""
        x = self.stem(x)
        x = x + self.back(self.grouped(self.split(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def picture() -> str:
    """Draw one square for each channel that a layer makes, in the color of its channel group."""
    graph = slimcnn.trace(Five(), torch.ones(1, 1, 2, 2))
    color = {}
    for number, group in enumerate(graph.groups):
        for axis in group.filters:
            for channel, positions in enumerate(axis.positions.tolist()):
                part = next(i for i, part in enumerate(group.parts) if channel in part)
                color[axis.parameter, positions[0]] = (COLORS[number], part, len(group.parts))
    shapes = []
    for row, (name, layer) in enumerate(Five().named_children()):
        y = TOP + row * ROW
        label = f"{name}: {tuple(layer.weight.shape[:2])}"  # type: ignore[union-attr]
        shapes.append(f'<text x="10" y="{y + 18}">{label}</text>')
        for channel in range(layer.weight.shape[0]):  # type: ignore[union-attr]
            fill, part, parts = color.get((f"{name}.weight", channel), (LOCKED, 0, 1))
            x = LEFT + channel * (CELL + 4) + part * 14 * (parts > 1)
            shapes.append(f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" rx="4" fill="{fill}"/>')
            shapes.append(f'<text x="{x + CELL / 2}" y="{y + 18}" class="cell">{channel}</text>')
    shapes += [_arrow(LEFT + 60, TOP + row * ROW + CELL + 6, TOP + (row + 1) * ROW - 8) for row in range(4)]
    x, top, bottom = LEFT + 230, TOP + CELL / 2, TOP + 3 * ROW + CELL / 2
    shapes.append(
        f'<path d="M {LEFT + 126} {top} H {x} V {bottom} H {LEFT + 130}" class="line" marker-end="url(#tip)"/>'
    )
    shapes.append(f'<text x="{x + 8}" y="{(top + bottom) / 2}">added</text>')
    legend = "   ".join(f"{group.name}: {group.channels}" for group in graph.groups)
    shapes.append(f'<text x="10" y="{TOP + 5 * ROW - 20}">groups: {legend}; gray: locked</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="480" height="{TOP + 5 * ROW}">'
        "<style>text{font:13px sans-serif;fill:#222}.cell{fill:#fff;text-anchor:middle}"
        ".line{stroke:#555;fill:none;stroke-width:1.5}</style>"
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto">'
        '<path d="M0,0 L6,3 L0,6" fill="#555"/></marker></defs>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(shapes)}</svg>\n'
    )


def _arrow(x: float, start: float, end: float) -> str:
    return f'<path d="M {x} {start} V {end}" class="line" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(picture(), encoding="utf-8")
