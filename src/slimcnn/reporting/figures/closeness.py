"""Class closeness: one map per network, and maps of the differences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import model_validator

from slimcnn.reporting import formatting
from slimcnn.reporting.figures.drawing import AFTER, BEFORE, INK, MUTED, Drawing, Panel, figures, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL, NAME, MOST = 13, 76, 15
"""Pixels of a cell, pixels of the names next to it, and the maximum number of classes on a map."""

MatrixRows = tuple[tuple[float, ...], ...]


@figures.add("closeness", source="slimcnn")
class Closeness(Drawing):
    """Class closeness: one map per network, and maps of the differences."""

    key: ClassVar[tuple[tuple[str, str], ...]] = (
        ("far", "after scale1"), ("", "after scale2"), ("", "after scale3"), ("closest of all maps", "after"),
        ("less close, in a difference", ""),
    )  # fmt: skip

    classes: tuple[str, ...]
    networks: dict[str, MatrixRows]
    """Network (the teacher first) → matrix; entry (i, j): mean of log(q_j / q_i) over images of class i."""
    temperature: float
    """Temperature of the softmax q."""
    images: int

    @model_validator(mode="after")
    def _square(self) -> Closeness:
        for network, matrix in self.networks.items():
            if any(len(row) != len(self.classes) for row in (matrix, *matrix)):
                raise ValueError(f"the matrix of {network} is not square with {len(self.classes)} classes")
        return self

    def panels(self, name: str) -> list[Panel]:
        """Draw a map per network, then the differences to the first and to each other, for the closest classes."""
        if len(self.classes) < 2 or not self.networks:
            return []
        matrices = _finite({network: np.array(matrix) for network, matrix in self.networks.items()})
        chosen = _closest(list(matrices.values()))
        names = [self.classes[k] for k in chosen]
        part = np.ix_(chosen, chosen)
        lowest = min(float(_off_diagonal(m[part]).min()) for m in matrices.values())
        maps = [
            (network, np.clip(1 - matrix[part] / min(lowest, -1e-9), 0, 1), f"closest: {_pair(matrix, self.classes)}")
            for network, matrix in matrices.items()
        ]
        first, *others = matrices
        pairs = [(first, other) for other in others] + list(pairwise(others))
        changes = {f"{other} - {one}": matrices[other] - matrices[one] for one, other in pairs}
        largest = max([float(np.abs(_off_diagonal(change[part])).max()) for change in changes.values()], default=0.0)
        for title, change in changes.items():
            note = f"mean absolute difference {np.abs(_off_diagonal(change)).mean():.2f} over all pairs"
            maps.append((title, change[part] / max(largest, 1e-9), note))
        return [_panel(f"{name}{n}", title, names, shares, note) for n, (title, shares, note) in enumerate(maps)]

    @property
    def caption(self) -> str:
        """Explain the shades and the averages."""
        words = (
            "Rows: class of the images. Columns: other class. Darker: a higher softened probability "
            f"(T = {self.temperature:g}) of the other class relative to the correct class. "
        )
        if len(self.networks) > 1:
            words += "In a difference, green: the pair is closer in the network named first, gray: less close. "
        words += formatting.plural(self.images, "validation image")
        return words + ("; the classes with the closest pairs." if len(self.classes) > MOST else ".")


def _finite(matrices: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Replace the missing values of classes without images by the smallest known closeness."""
    known = [matrix[np.isfinite(matrix)] for matrix in matrices.values()]
    farthest = min((float(values.min()) for values in known if len(values)), default=0.0)
    return {name: np.where(np.isfinite(matrix), matrix, farthest) for name, matrix in matrices.items()}


def _closest(matrices: Sequence[np.ndarray]) -> list[int]:
    """Return the indices of the classes with the closest pairs, sorted."""
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


def _panel(name: str, title: str, names: list[str], shares: np.ndarray, note: str) -> Panel:
    n = len(names)

    def draw(axes: Axes) -> None:
        from matplotlib.patches import Rectangle

        for row in range(n):
            for column in range(n):
                share = float(shares[row, column])
                if row != column and abs(share) > 0.02:
                    shade = AFTER if share > 0 else BEFORE
                    axes.add_patch(Rectangle((column, row), 0.94, 0.94, facecolor=shade, alpha=abs(share), linewidth=0))
            axes.add_patch(Rectangle((row, row), 0.94, 0.94, fill=False, edgecolor=MUTED, linewidth=0.5))
            axes.annotate(
                formatting.short_name(names[row], 13), (0, row + 0.5), xytext=(-4, 0), textcoords="offset points",
                ha="right", va="center_baseline", color=INK, fontsize=9,
            )  # fmt: skip
            axes.annotate(
                formatting.short_name(names[row], 13), (row + 0.5, n), xytext=(0, -4), textcoords="offset points",
                ha="center", va="top", rotation=90, color=INK, fontsize=9, annotation_clip=False,
            )  # fmt: skip
        axes.set_axis_off()
        axes.set_xlim(0, n)
        axes.set_ylim(n, 0)

    label = f"{title}: closeness of {n} classes; {note}"
    side = CELL * n
    svg = picture(
        draw, name=name, label=label, width=NAME + side + 4, height=side + NAME + 4,
        margins=(NAME, 4, 4, NAME),
    )  # fmt: skip
    return Panel(title, note, svg)
