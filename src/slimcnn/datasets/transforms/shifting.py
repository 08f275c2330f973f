"""Crop, flip and cutout, which are applied to a whole batch at once."""

from __future__ import annotations

from slimcnn.datasets.augmenting import OnWholeBatch, augmentations, whole

MOST = 4096


@augmentations.add("crop", source="He et al. 2015, arXiv 1512.03385, section 4.2")
def crop(pixels: int = 4) -> OnWholeBatch:
    """Pad with black pixels on all sides, then crop to the size before at a random position."""
    return OnWholeBatch("crop", whole("crop: pixels", pixels, 1, MOST))


@augmentations.add("flip", source="Krizhevsky et al. 2012, section 4.1")
def flip() -> OnWholeBatch:
    """Mirror left and right with probability 1/2."""
    return OnWholeBatch("flip")


@augmentations.add("cutout", source="DeVries, Taylor 2017, arXiv 1708.04552")
def cutout(size: int = 8) -> OnWholeBatch:
    """Fill a square of `size` pixels, its center anywhere in the image, with the mean color."""
    return OnWholeBatch("cutout", whole("cutout: size", size, 1, MOST))
