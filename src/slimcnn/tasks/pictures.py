"""Draw targets and answers onto images."""

from __future__ import annotations

import base64
import colorsys
import io
from collections.abc import Sequence

import numpy as np
from torch import Tensor

SHARE = 0.55
"""Share of the class's color in a pixel."""

LINE = 2
"""Width of a box's lines in pixels."""


def color_of(kind: int) -> tuple[int, int, int]:
    """Return the color of a class: hues as far apart as the golden angle, so that neighbors differ.

    >>> color_of(0) != color_of(1)
    True
    """
    rgb = colorsys.hsv_to_rgb((0.61 + kind * 0.381966) % 1.0, 0.85 if kind % 2 else 0.65, 0.95 if kind % 3 else 0.75)
    return (round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2]))


def hexadecimal(kind: int) -> str:
    """Return the color of a class for a style sheet."""
    return "#" + "".join(f"{part:02x}" for part in color_of(kind))


def as_rgb(pixels: Tensor) -> np.ndarray:
    """Return an image (c, h, w), uint8, as (h, w, 3)."""
    image = pixels[:3] if pixels.shape[0] >= 3 else pixels[:1].expand(3, -1, -1)
    return image.permute(1, 2, 0).cpu().numpy().copy()


def with_mask(pixels: Tensor, mask: Tensor, void: int = 255) -> np.ndarray:
    """Color the pixels of an image by their class; pixels that are not counted stay.

    >>> import torch
    >>> with_mask(torch.zeros(3, 2, 2, dtype=torch.uint8), torch.full((2, 2), 255)).max()
    np.uint8(0)
    """
    image, numbers = as_rgb(pixels), mask.cpu().numpy()
    colors = np.array([color_of(kind) for kind in range(256)])[np.clip(numbers, 0, 255)]
    mixed = (SHARE * colors + (1 - SHARE) * image).astype(np.uint8)
    return np.where((numbers == void)[..., None], image, mixed)


def with_boxes(pixels: Tensor, boxes: Tensor, kinds: Sequence[int]) -> np.ndarray:
    """Draw boxes (k, 4) in the colors of their classes."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(as_rgb(pixels))
    draw = ImageDraw.Draw(picture)
    for corners, kind in zip(boxes.tolist(), kinds, strict=True):
        draw.rectangle([round(value) for value in corners], outline=color_of(kind), width=LINE)
    return np.asarray(picture)


def jpeg_of(image: np.ndarray) -> str:
    """Return an image (h, w, 3) as a JPEG file in base64."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=88, optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")
