"""Random resized crop."""

from __future__ import annotations

from torch import nn

from slimcnn.datasets.augmenting import Canvas, OnEachImage, augmentations, in_range


@augmentations.add("random_resized_crop", source="Szegedy et al. 2014, arXiv 1409.4842, section 6")
def random_resized_crop(smallest: float = 0.08, largest: float = 1.0, ratio: float = 1.3333) -> OnEachImage:
    """Scale a random part of the picture, of `smallest` to `largest` of its area, to the image size.

    Width / height is between 1 / `ratio` and `ratio`. A stream crops from the decoded picture, images in memory from
    the pixels that are kept.
    """
    in_range("random_resized_crop: smallest", smallest, 0.001, 1)
    in_range("random_resized_crop: largest", largest, smallest, 1)
    in_range("random_resized_crop: ratio", ratio, 1, 10)

    def make(canvas: Canvas) -> nn.Module:
        from torchvision.transforms import v2

        found: nn.Module = v2.RandomResizedCrop(canvas.size, (smallest, largest), (1 / ratio, ratio), antialias=True)
        return found

    return OnEachImage(make, first=True)
