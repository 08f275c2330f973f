"""Decode image files into uint8 pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimcnn.datasets.progress import progress
from slimcnn.datasets.scaling import AS_LARGE, ImageSize, Scaling, sides
from slimcnn.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

T = TypeVar("T")

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
GRAYS = ("1", "L", "LA")
COLORS = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")
ORIENTATION = 0x0112
"""The EXIF orientation tag; values of 5 and above swap width and height."""
MOST_PIXELS = 1024 * 1024 * 1024 // 4 // 3
"""The most pixels of an image: more may be a small file that fills the memory. The limit of Pillow."""

BrokenFiles: TypeAlias = dict[str, str]
"""The name of each broken image, and what is wrong with it."""


class BrokenImage(DataError):
    """An image that cannot be decoded; `--skip-broken` leaves it out."""


@dataclass(frozen=True)
class Survey:
    """The common mode and shape of the decoded images."""

    mode: str
    """`L` for gray, `RGB` for color."""
    shape: tuple[int, int, int]
    """Channels, height and width."""
    fit: bool
    """Whether images are scaled and cropped to this shape; otherwise they already have it."""
    scaling: Scaling = AS_LARGE
    """How they are scaled."""


def survey(
    paths: Sequence[Path], image_size: ImageSize | None, broken: BrokenFiles | None = None, scaling: Scaling = AS_LARGE
) -> Survey:
    """Read the header of every file, so that mixed sizes or modes are reported before anything is decoded.

    Broken files are added to `broken` and left out; without it, they are errors.
    """
    seen = _each(paths, lambda _, picture: header_of(picture), "looking at images", broken)
    return common_look(
        [(path, *one) for path, one in zip(paths, seen, strict=True) if one is not None], image_size, scaling
    )


def header_of(picture: Picture) -> tuple[str, tuple[int, int]]:
    """Return the mode of an open picture, and its width and height when it is upright."""
    return picture.mode, _upright_size(picture)


def common_look(
    found: Sequence[tuple[str | Path, str, tuple[int, int]]], image_size: ImageSize | None, scaling: Scaling = AS_LARGE
) -> Survey:
    """Return the mode and shape that images have in common, from the name, mode and size of each.

    >>> common_look([("a.png", "RGB", (8, 6)), ("b.png", "L", (8, 6))], None)
    Survey(mode='RGB', shape=(3, 6, 8), fit=False, scaling=Scaling(resize=None, interpolation='bicubic'))
    """
    scaling.check(sides(image_size) if image_size else None)
    if not found:
        raise DataError("all images that were looked at are broken: replace them")
    first, _, common = found[0]
    for path, mode, size in found:
        _check_mode(path, mode)
        if image_size is None and size != common:
            sizes = f"{first} is {_by(common)}, {path} is {_by(size)}"
            raise DataError(f"images of mixed sizes: {sizes}; give image_size to scale them")
    mode = "L" if all(mode in GRAYS for _, mode, _ in found) else "RGB"
    height, width = sides(image_size) if image_size else common[::-1]
    return Survey(mode, (1 if mode == "L" else 3, height, width), image_size is not None, scaling)


def decode(paths: Sequence[Path], look: Survey, broken: BrokenFiles | None = None) -> Tensor:
    """Decode images into uint8 pixels `(n, c, h, w)`, several at a time; the pixels of a broken one are arbitrary."""
    pixels = np.empty((len(paths), *look.shape), np.uint8)

    def read(place: int, picture: Picture) -> None:
        pixels[place] = pixels_of(picture, look)

    _each(paths, read, "decoding images", broken)
    return torch.from_numpy(pixels)


def pixels_of(picture: Picture, look: Survey) -> NDArray[np.uint8]:
    """Decode an open picture into pixels `(c, h, w)`: turned upright, without transparency, scaled and cropped."""
    from PIL import ImageOps

    channels, height, width = look.shape
    upright = ImageOps.exif_transpose(picture)
    # Pillow requires transparent palettes to be converted through RGBA.
    upright = upright.convert("RGBA") if upright.mode in ("P", "PA") else upright
    upright = upright.convert(look.mode)
    fitted = look.scaling.apply(upright, (height, width)) if look.fit else upright
    return np.asarray(fitted).reshape(height, width, channels).transpose(2, 0, 1)


def whole(picture: Picture, look: Survey) -> Survey:
    """Return the look of an open picture that is neither scaled nor cropped."""
    width, height = _upright_size(picture)
    return Survey(look.mode, (look.shape[0], height, width), fit=False)


def check_look(name: str | Path, picture: Picture, look: Survey) -> None:
    """Raise `DataError` if an image differs from those that were surveyed: a stream surveys some of its images only."""
    _check_mode(name, picture.mode)
    if look.mode == "L" and picture.mode not in GRAYS:
        raise DataError(f"{name} has colors, but the images looked at before are gray: make all of them gray or color")
    size = _upright_size(picture)
    if not look.fit and size != (look.shape[2], look.shape[1]):
        sizes = f"{name} is {_by(size)}, others are {_by((look.shape[2], look.shape[1]))}"
        raise DataError(f"images of mixed sizes: {sizes}; give image_size to scale them")


@contextmanager
def opened(file: Path | IO[bytes], name: str | Path) -> Iterator[Picture]:
    """Open an image; `BrokenImage`, with its name, if it cannot be opened, or decoded within the block.

    The header of the file says how many pixels it has. Too many are refused before any is decoded.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file, formats=FORMATS) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise ValueError(f"it has {_by(picture.size)} pixels, more than {MOST_PIXELS:,}")
            yield picture
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow includes the file name in some messages only.
        reason = "not a readable image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise BrokenImage(f"{name} is broken: {reason}; replace or remove it") from error


def _each(
    paths: Sequence[Path], job: Callable[[int, Picture], T], description: str, broken: BrokenFiles | None = None
) -> list[T | None]:
    """Apply a function to every opened image, in threads: Pillow releases the interpreter's lock while decoding."""

    def do(place: int) -> T | None:
        try:
            with opened(paths[place], paths[place]) as picture:
                return job(place, picture)
        except BrokenImage as error:
            if broken is None:
                raise
            broken[str(paths[place])] = str(error)
            return None

    results = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, progress(description, total=len(paths)) as advance:
        for result in pool.map(do, range(len(paths))):
            results.append(result)
            advance(1)
    return results


def _check_mode(name: Any, mode: str) -> None:
    if mode not in GRAYS + COLORS:
        raise DataError(f"{name} has the pixel format {mode}: expected 8 bits, gray or color; convert it")


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _upright_size(picture: Picture) -> tuple[int, int]:
    sideways = picture.getexif().get(ORIENTATION, 1) >= 5
    return (picture.height, picture.width) if sideways else (picture.width, picture.height)
