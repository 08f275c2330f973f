"""A page of how close networks find classes: maps, their differences, and the closest pairs in words."""

from __future__ import annotations

from collections.abc import Mapping

from slimcnn.reporting import figures
from slimcnn.reporting.page import template

Matrix = tuple[tuple[float, ...], ...]


def closest(classes: tuple[str, ...], found: Mapping[str, Matrix], n: int = 10) -> list[tuple[str, str, list[float]]]:
    """List the pairs that the first network finds closest: (images of, taken for, log ratio of every network).

    >>> closest(("cat", "dog"), {"teacher": ((0, -1.0), (-2.0, 0)), "student": ((0, -3.0), (-2.5, 0))}, 1)
    [('cat', 'dog', [-1.0, -3.0])]
    """
    first = next(iter(found.values()))
    places = [(i, j) for i in range(len(classes)) for j in range(len(classes)) if i != j]
    places.sort(key=lambda place: -first[place[0]][place[1]])
    return [(classes[i], classes[j], [matrix[i][j] for matrix in found.values()]) for i, j in places[:n]]


def render_closeness(data: str, classes: tuple[str, ...], found: Mapping[str, Matrix], images: int) -> str:
    """One self-contained HTML page, like the report's."""
    with figures.house_style():
        panels = figures.closeness_maps(classes, found)
    return template("closeness.html").render(
        title=f"Closeness of classes on {data}", headline="How close networks find classes, one to another",
        names=list(found), panels=panels, pairs=closest(classes, found), images=images, classes=classes,
    )  # fmt: skip
