"""Random erasing."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from slimcnn.datasets.augmenting import Canvas, OnEachImage, augmentations, in_range


@augmentations.add("random_erasing", source="Zhong et al. 2017, arXiv 1708.04896")
def random_erasing(probability: float = 0.25, smallest: float = 0.02, largest: float = 0.33) -> OnEachImage:
    """Fill a random rectangle, of `smallest` to `largest` of the area, with the mean color."""
    in_range("random_erasing: probability", probability, 0, 1)
    in_range("random_erasing: smallest", smallest, 0.001, 1)
    in_range("random_erasing: largest", largest, smallest, 1)

    def make(canvas: Canvas) -> nn.Module:
        from torchvision.transforms import v2

        erase = v2.RandomErasing(probability, (smallest, largest), value=list(map(float, canvas.mean)))
        return ImageOnly(erase)

    return OnEachImage(make)


class ImageOnly(nn.Module):
    """Applies a transform to the image and leaves its targets, without torchvision's warning that it does."""

    def __init__(self, transform: nn.Module) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, image: Any, *targets: Any) -> Any:
        """Transform the image."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = self.transform(image)
        return (found, *targets) if targets else found
