"""Masks as PNG files: one class number for every pixel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slimcnn.errors import DataError

VOID = 255
"""The class number of pixels that are not counted."""


def read_masks(paths: Sequence[Path], shape: tuple[int, int], classes: int, void: Sequence[int] = ()) -> Tensor:
    """Read masks as uint8 (n, h, w); class numbers in `void` become 255, which is not counted.

    Raises:
        DataError: a mask is no image of 8 bits with one channel, has another size than the images (h, w), or a class
            number out of range.
    """
    from PIL import Image

    masks = np.empty((len(paths), *shape), np.uint8)

    def read(place: int, picture: object) -> None:
        path, mode = paths[place], getattr(picture, "mode", "")
        if mode not in ("L", "P", "1"):
            raise DataError(f"{path} has the pixel format {mode}: a mask has one class number for a pixel, 8 bits")
        numbers = np.asarray(picture).astype(np.uint8)
        if numbers.shape != shape:
            found, wanted = (f"{size[1]} x {size[0]}" for size in (numbers.shape, shape))
            raise DataError(f"{path} is {found} pixels, its image {wanted}: a mask has the size of its image")
        numbers = np.where(np.isin(numbers, list(void)), VOID, numbers).astype(np.uint8) if void else numbers
        wrong = (numbers >= classes) & (numbers != VOID)
        if wrong.any():
            raise DataError(
                f"{path} has the class number {int(numbers[wrong][0])}, but there are {classes} classes "
                f"(0 to {classes - 1}; {VOID}: not counted)"
            )
        masks[place] = numbers

    def opened(place: int) -> None:
        try:
            with Image.open(paths[place], formats=("PNG",)) as picture:
                read(place, picture)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{paths[place]} is broken: {error}; a mask is a PNG file") from error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(opened, range(len(paths))))
    return torch.from_numpy(masks)


def partners(images: Sequence[Path], targets: Sequence[Path], what: str, suffixes: Sequence[str] = ("",)) -> list[Path]:
    """Return the target file of every image, by the name without suffix.

    Raises:
        DataError: an image without a target file, or the reverse.

    >>> partners([Path("a.jpg")], [Path("m/a.png")], "mask")
    [PosixPath('m/a.png')]
    """
    named = {path.stem: path for path in targets}
    for suffix in suffixes:
        named |= {path.stem.removesuffix(suffix): path for path in targets} if suffix else {}
    missing = [path for path in images if path.stem not in named]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(f"{missing[0]}{more} has no {what}: add one with the same name, or remove the image")
    known = {path.stem for path in images}
    extra = [path for stem, path in named.items() if stem not in known]
    if extra:
        more = f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
        raise DataError(f"{extra[0]}{more} has no image: add the image, or remove the file")
    return [named[path.stem] for path in images]
