"""Mixup and cutmix: every image is mixed with another one of its batch, and the loss is averaged over both labels."""

from __future__ import annotations

import math

from torch import Tensor

from slimcnn.datasets.augmenting import OnPairs, augmentations, in_range


@augmentations.add("mixup", source="Zhang et al. 2017, arXiv 1710.09412")
def mixup(alpha: float = 0.2) -> OnPairs:
    """Take the weighted mean of two images; the share is drawn from Beta(`alpha`, `alpha`)."""
    in_range("mixup: alpha", alpha, 0.001, 1000)

    def mix(x: Tensor, other: Tensor, share: float, _: float, __: float) -> tuple[Tensor, float]:
        return share * x + (1 - share) * other, share

    return OnPairs(alpha, mix)


@augmentations.add("cutmix", source="Yun et al. 2019, arXiv 1905.04899")
def cutmix(alpha: float = 1.0) -> OnPairs:
    """Paste a rectangle of another image; its share of the area is drawn from Beta(`alpha`, `alpha`)."""
    in_range("cutmix: alpha", alpha, 0.001, 1000)

    def mix(x: Tensor, other: Tensor, share: float, across: float, down: float) -> tuple[Tensor, float]:
        height, width = x.shape[-2:]
        top, bottom = _span(height, share, down)
        left, right = _span(width, share, across)
        x = x.clone()
        x[..., top:bottom, left:right] = other[..., top:bottom, left:right]
        return x, 1 - (bottom - top) * (right - left) / (height * width)

    return OnPairs(alpha, mix)


def _span(length: int, share: float, place: float) -> tuple[int, int]:
    """Return the ends of the rectangle on one axis; at the border, part of it lies outside, as in the paper."""
    center, half = int(place * length), int(0.5 * math.sqrt(1 - share) * length)
    return max(center - half, 0), min(center + half, length)
