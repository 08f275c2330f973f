"""Color jitter."""

from __future__ import annotations

from torch import nn

from slimcnn.datasets.augmenting import Canvas, OnEachImage, augmentations, in_range, refuse_other_channels

MOST = 10.0


@augmentations.add("color_jitter", source="torchvision.transforms.v2.ColorJitter; Howard 2013, arXiv 1312.5402")
def color_jitter(
    brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4, hue: float = 0.0
) -> OnEachImage:
    """Change brightness, contrast and saturation by factors of 1 - v to 1 + v, and the hue by -v to v of the circle."""
    for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
        in_range(f"color_jitter: {name}", value, 0, MOST)
    in_range("color_jitter: hue", hue, 0, 0.5)

    def make(canvas: Canvas) -> nn.Module:
        from torchvision.transforms import v2

        refuse_other_channels("color_jitter", canvas)
        found: nn.Module = v2.ColorJitter(brightness, contrast, saturation, hue)
        return found

    return OnEachImage(make)
