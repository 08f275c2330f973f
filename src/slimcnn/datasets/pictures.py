"""Decode image files into one uint8 tensor."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from slimcnn.datasets.progress import progress
from slimcnn.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

T = TypeVar("T")

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
GRAYS = ("1", "L", "LA")
COLORS = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")
ORIENTATION = 0x0112
"""The EXIF orientation tag; values of 5 and above swap width and height."""


@dataclass(frozen=True)
class Survey:
    """The common mode and shape of the decoded images."""

    mode: str
    """`L` for gray, `RGB` for color."""
    shape: tuple[int, int, int]
    """Channels, height and width."""
    fit: bool
    """Whether images are scaled and cropped to this shape; otherwise they already have it."""


def survey(paths: Sequence[Path], image_size: int | None) -> Survey:
    """Read the header of every file, so that mixed sizes or modes are reported before anything is decoded."""
    seen = _each(paths, lambda _, picture: (picture.mode, _upright_size(picture)), "looking at images")
    for path, (mode, size) in zip(paths, seen, strict=True):
        if mode not in GRAYS + COLORS:
            raise DataError(f"{path} has the pixel format {mode}: expected 8 bits, gray or color; convert it")
        if image_size is None and size != seen[0][1]:
            sizes = f"{paths[0]} is {_by(seen[0][1])}, {path} is {_by(size)}"
            raise DataError(f"images of mixed sizes: {sizes}; give image_size to scale them")
    mode = "L" if all(mode in GRAYS for mode, _ in seen) else "RGB"
    width, height = (image_size, image_size) if image_size else seen[0][1]
    return Survey(mode, (1 if mode == "L" else 3, height, width), fit=image_size is not None)


def decode(paths: Sequence[Path], look: Survey) -> Tensor:
    """Decode images into uint8 pixels `(n, c, h, w)`, several at a time."""
    from PIL import ImageOps

    channels, height, width = look.shape
    pixels = np.empty((len(paths), channels, height, width), np.uint8)

    def read(place: int, picture: Picture) -> None:
        upright = ImageOps.exif_transpose(picture)
        # Pillow requires transparent palettes to be converted through RGBA.
        upright = upright.convert("RGBA") if upright.mode in ("P", "PA") else upright
        upright = upright.convert(look.mode)
        fitted = ImageOps.fit(upright, (width, height)) if look.fit else upright
        pixels[place] = np.asarray(fitted).reshape(height, width, channels).transpose(2, 0, 1)

    _each(paths, read, "decoding images")
    return torch.from_numpy(pixels)


def _each(paths: Sequence[Path], job: Callable[[int, Picture], T], description: str) -> list[T]:
    """Apply a function to every opened image, in threads: Pillow releases the interpreter's lock while decoding."""
    from PIL import Image, UnidentifiedImageError

    def do(place: int) -> T:
        try:
            with Image.open(paths[place], formats=FORMATS) as picture:
                return job(place, picture)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            # Pillow includes the file name in some messages only.
            reason = "not a readable image" if isinstance(error, UnidentifiedImageError) else str(error)
            raise DataError(f"{paths[place]} is broken: {reason}; replace or remove it") from error

    results = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, progress(description, total=len(paths)) as advance:
        for result in pool.map(do, range(len(paths))):
            results.append(result)
            advance(1)
    return results


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _upright_size(picture: Picture) -> tuple[int, int]:
    sideways = picture.getexif().get(ORIENTATION, 1) >= 5
    return (picture.height, picture.width) if sideways else (picture.width, picture.height)
