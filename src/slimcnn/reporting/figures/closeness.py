"""How close classes are to each other, as a network finds them: a map for teacher, student and their difference."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from slimcnn.reporting import phrases
from slimcnn.reporting.contents import Closeness
from slimcnn.reporting.figures.drawing import AFTER, BEFORE, INK, MUTED, Panel, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL, NAME, MOST = 13, 76, 15
"""Pixels of a cell, of the names beside it, and classes on a map at most."""


Matrix = tuple[tuple[float, ...], ...]


def closeness(found: Closeness) -> list[Panel]:
    """Maps of teacher, student and their difference; the darker, the closer column j is to images of row i."""
    return closeness_maps(found.classes, {"teacher": found.teacher, "student": found.student})


def closeness_maps(classes: tuple[str, ...], found: Mapping[str, Matrix]) -> list[Panel]:
    """A map for each network, then what others differ by from the first and from each other; the closest classes."""
    matrices = {name: np.array(matrix) for name, matrix in found.items()}
    chosen = _closest(list(matrices.values()))
    names = [classes[k] for k in chosen]
    part = np.ix_(chosen, chosen)
    lowest = min(float(_off_diagonal(m[part]).min()) for m in matrices.values())
    panels = []
    for name, matrix in matrices.items():
        shares = 1 - matrix[part] / min(lowest, -1e-9)
        panels.append(_panel(name, names, np.clip(shares, 0, 1), AFTER, f"closest: {_pair(matrix, classes)}"))
    first, *others = matrices
    pairs = [(first, other) for other in others] + list(pairwise(others))
    changes = {f"{other} - {one}": matrices[other] - matrices[one] for one, other in pairs}
    largest = max([float(np.abs(_off_diagonal(change[part])).max()) for change in changes.values()], default=1e-9)
    for name, change in changes.items():
        note = f"mean size {np.abs(_off_diagonal(change)).mean():.2f} of all pairs"
        panels.append(_panel(name, names, change[part] / max(largest, 1e-9), AFTER, note))
    return panels


def _closest(matrices: Sequence[np.ndarray]) -> list[int]:
    """Choose the classes with the closest pairs, in their order."""
    most = np.maximum.reduce(matrices)
    np.fill_diagonal(most, -np.inf)
    chosen: list[int] = []
    for place in np.argsort(-most, axis=None, kind="stable"):
        chosen += [int(k) for k in divmod(int(place), len(most)) if k not in chosen]
        if len(chosen) >= min(MOST, len(most)):
            break
    return sorted(chosen[:MOST])


def _off_diagonal(matrix: np.ndarray) -> np.ndarray:
    return matrix[~np.eye(len(matrix), dtype=bool)]


def _pair(matrix: np.ndarray, classes: tuple[str, ...]) -> str:
    masked = matrix.copy()
    np.fill_diagonal(masked, -np.inf)
    row, column = divmod(int(masked.argmax()), len(masked))
    return f"{classes[column]} to {classes[row]}"


def _panel(name: str, names: list[str], shares: np.ndarray, colour: str, note: str) -> Panel:
    n = len(names)

    def draw(axes: Axes) -> None:
        from matplotlib.patches import Rectangle

        for row in range(n):
            for column in range(n):
                share = float(shares[row, column])
                if row != column and abs(share) > 0.02:
                    shade = colour if share > 0 else BEFORE
                    axes.add_patch(Rectangle((column, row), 0.94, 0.94, facecolor=shade, alpha=abs(share), linewidth=0))
            axes.add_patch(Rectangle((row, row), 0.94, 0.94, fill=False, edgecolor=MUTED, linewidth=0.5))
            axes.annotate(
                phrases.short_name(names[row], 13), (0, row + 0.5), xytext=(-4, 0), textcoords="offset points",
                ha="right", va="center_baseline", color=INK, fontsize=9,
            )  # fmt: skip
            axes.annotate(
                phrases.short_name(names[row], 13), (row + 0.5, n), xytext=(0, -4), textcoords="offset points",
                ha="center", va="top", rotation=90, color=INK, fontsize=9, annotation_clip=False,
            )  # fmt: skip
        axes.set_axis_off()
        axes.set_xlim(0, n)
        axes.set_ylim(n, 0)

    label = f"{name}: how close {n} classes are, one to another; {note}"
    side = CELL * n
    svg = picture(
        draw, name="closeness-" + re.sub(r"\W", "", name), label=label, width=NAME + side + 4, height=side + NAME + 4,
        margins=(NAME, 4, 4, NAME),
    )  # fmt: skip
    return Panel(name, note, svg)
