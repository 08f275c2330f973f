"""Decode published files to labels `(n,)` and pixels `(n, c, h, w)`, both uint8."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zlib
from collections.abc import Mapping
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from slimcnn.errors import DataError

Bytes: TypeAlias = NDArray[np.uint8]
Files: TypeAlias = Mapping[str, bytes]
"""The files of one part (training or test) by name, in the order of their images."""

LARGEST = 1 << 30
"""Bytes that are unpacked from one file at most."""


def records(files: Files, *, label_bytes: int = 1, shape: tuple[int, int, int] = (3, 32, 32)) -> tuple[Bytes, Bytes]:
    """Read the CIFAR binary layout: for each image its labels, one byte each (the last one is used), and its pixels.

    >>> labels, pixels = records({"batch.bin": bytes([7, 10, 20, 8, 30, 40])}, shape=(1, 1, 2))
    >>> labels.tolist(), pixels.flatten().tolist()
    ([7, 8], [10, 20, 30, 40])
    """
    length = label_bytes + int(np.prod(shape))
    rows = []
    for name, content in files.items():
        if not content or len(content) % length:
            raise DataError(f"{name} has {len(content)} bytes, not a multiple of {length}: the file is incomplete")
        rows.append(np.frombuffer(content, np.uint8).reshape(-1, length))
    table = np.concatenate(rows)
    return table[:, label_bytes - 1].copy(), table[:, label_bytes:].reshape(-1, *shape)


def sheets(files: Files, *, side: int = 32) -> tuple[Bytes, Bytes]:
    """Read PNG sheets with one RGB image of `side` x `side` per row, and the JSON list of labels in the last file."""
    *images, labels = files
    rows = [_sheet(name, files[name], side) for name in images]
    pixels = np.concatenate(rows).reshape(-1, side, side, 3).transpose(0, 3, 1, 2)
    return _label_list(labels, files[labels]), np.ascontiguousarray(pixels)


def _sheet(name: str, content: bytes, side: int) -> Bytes:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            mode, (width, _) = image.mode, image.size
            sheet = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{name} is not a complete PNG image: {error}") from error
    if mode != "RGB" or width != side * side:
        raise DataError(f"{name} is a {mode} sheet {width} wide, expected RGB and {side * side} (one image per row)")
    return sheet


def _label_list(name: str, content: bytes) -> Bytes:
    try:
        labels = json.loads(content)
    except ValueError as error:
        raise DataError(f"{name} is not JSON: {error}") from error
    if not isinstance(labels, list) or not all(type(each) is int and 0 <= each < 256 for each in labels):
        raise DataError(f"{name} is not a list of labels: expected integers from 0 to 255, as in [6, 9, 9, 4]")
    return np.array(labels, np.uint8)


def idx(files: Files) -> tuple[Bytes, Bytes]:
    """Read the MNIST layout: gzipped IDX files, images first, then labels.

    IDX: two zero bytes, 8 for unsigned bytes, the number of axes, their sizes (32 bits, big-endian), the data.
    """
    (image_name, images), (label_name, labels) = files.items()
    pixels = _idx_array(image_name, images, axes=3)
    return _idx_array(label_name, labels, axes=1), pixels[:, None]


def _idx_array(name: str, content: bytes, axes: int) -> Bytes:
    head = 4 + 4 * axes
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            start = file.read(head)
            if start[:4] != bytes([0, 0, 8, axes]) or len(start) < head:
                found = f"it begins with {start[:4].hex(' ')}"
                raise DataError(f"{name} is not an IDX file of bytes with {axes} axes: {found}")
            shape = struct.unpack(f">{axes}I", start[4:])
            raw = file.read(min(prod(shape), LARGEST) + 1)  # never more than declared: a small file may unpack to much
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name} is not a complete gzip file: {error}") from error
    if len(raw) != prod(shape):
        found = f"{len(raw)} bytes: the file is incomplete" if len(raw) < prod(shape) else "more bytes: it is damaged"
        raise DataError(f"{name} declares shape {shape} but holds {found}")
    return np.frombuffer(raw, np.uint8).reshape(shape)
