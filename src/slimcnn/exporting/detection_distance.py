"""How far apart the detections of two networks are, such as those of a detector in float and in int8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Detected = Mapping[str, Tensor]
"""Boxes (k, 4), labels (k,) and scores (k,) of an image."""


def detection_distance(expected: Sequence[Detected], found: Sequence[Detected]) -> float:
    """Return the share of the detections, weighted by score, that the other network does not have: 0 (equal) to 1.

    A detection i with score s_i is found again as far as the other network has a box j of the same class:

        r_i = max_j IoU(i, j) · min(s_j / s_i, 1)

    The distance is the sum of s_i (1 - r_i) over the sum of s_i, over the detections of both networks in all images;
    0 if there are none. Boxes without area, which an IoU cannot compare, do not count.

    >>> two = {"boxes": torch.tensor([[0.0, 0, 8, 8], [4, 4, 8, 8]]), "labels": torch.tensor([1, 2]),
    ...        "scores": torch.tensor([0.75, 0.25])}
    >>> one = {name: each[:1] for name, each in two.items()}
    >>> detection_distance([two], [two]), round(detection_distance([two], [one]), 4)
    (0.0, 0.1429)
    """
    lost = total = 0.0
    for y, z in zip(map(_with_area, expected), map(_with_area, found), strict=True):
        for own, other in ((y, z), (z, y)):
            lost += float((own["scores"].double() * (1 - _found_again(own, other))).sum())
            total += float(own["scores"].double().sum())
    return lost / total if total else 0.0


def _with_area(one: Detected) -> Detected:
    sizes = one["boxes"][:, 2:] - one["boxes"][:, :2]
    kept = (sizes > 0).all(1)
    return {name: one[name][kept] for name in ("boxes", "labels", "scores")}


def _found_again(own: Detected, other: Detected) -> Tensor:
    """Return r_i of each detection, (k,)."""
    from torchvision.ops import box_iou

    if not len(own["labels"]) or not len(other["labels"]):
        return torch.zeros(len(own["labels"]), dtype=torch.float64)
    overlap = box_iou(own["boxes"].double(), other["boxes"].double())
    same = own["labels"][:, None] == other["labels"][None, :]
    scores, others = own["scores"].double()[:, None], other["scores"].double()[None, :]
    again: Tensor = (overlap * same * (others / scores).clamp(max=1).nan_to_num(0.0)).max(1).values
    return again
