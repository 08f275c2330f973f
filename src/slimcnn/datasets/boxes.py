"""Boxes as targets: one tensor for all images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from slimcnn.errors import DataError

OUTSIDE = 2.0
"""Pixels by which a box may leave its image: it is clipped; annotators and rounding do that."""


class ObjectBox(NamedTuple):
    """One object: its class, and its corners in pixels."""

    kind: int
    x1: float
    y1: float
    x2: float
    y2: float


def boxes_of(found: Sequence[Sequence[ObjectBox]]) -> Tensor:
    """Return boxes as one tensor (n, k, 5): class, x1, y1, x2, y2; rows of class -1 fill up images with fewer boxes.

    >>> boxes_of([[ObjectBox(0, 1, 1, 5, 5)], []]).tolist()
    [[[0.0, 1.0, 1.0, 5.0, 5.0]], [[-1.0, 0.0, 0.0, 0.0, 0.0]]]
    """
    most = max(map(len, found), default=0) or 1
    boxes = torch.zeros(len(found), most, 5)
    boxes[:, :, 0] = -1
    for place, own in enumerate(found):
        if own:
            boxes[place, : len(own)] = torch.tensor(own)
    return boxes


def checked(boxes: Sequence[ObjectBox], width: int, height: int, where: str) -> list[ObjectBox]:
    """Return boxes clipped to their image; of equal ones the first.

    Raises:
        DataError: a box without area, or outside of the image by more than two pixels.

    >>> checked([ObjectBox(0, -1, 0, 9, 8), ObjectBox(0, -1, 0, 9, 8)], 8, 8, "a.xml")
    [ObjectBox(kind=0, x1=0.0, y1=0.0, x2=8.0, y2=8.0)]
    >>> checked([ObjectBox(0, 3, 3, 3, 5)], 8, 8, "a.xml")
    Traceback (most recent call last):
    slimcnn.errors.DataError: a.xml has a box without area, (3, 3) to (3, 5): correct or remove it
    """
    found: dict[ObjectBox, None] = {}
    for box in boxes:
        corners = f"({box.x1:g}, {box.y1:g}) to ({box.x2:g}, {box.y2:g})"
        if box.x2 <= box.x1 or box.y2 <= box.y1:
            raise DataError(f"{where} has a box without area, {corners}: correct or remove it")
        if min(box.x1, box.y1) < -OUTSIDE or box.x2 > width + OUTSIDE or box.y2 > height + OUTSIDE:
            raise DataError(
                f"{where} has a box outside of its image, {corners} of {width} x {height} pixels: correct or remove it"
            )
        clipped = ObjectBox(
            box.kind, max(float(box.x1), 0.0), max(float(box.y1), 0.0), min(float(box.x2), float(width)),
            min(float(box.y2), float(height)),
        )  # fmt: skip
        if clipped.x2 <= clipped.x1 or clipped.y2 <= clipped.y1:
            raise DataError(f"{where} has a box outside of its image, {corners}: correct or remove it")
        found[clipped] = None
    return list(found)
