"""Cache of decoded datasets: one safetensors file each, verified by its SHA-256 on every read."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from slimcnn.datasets.examples import Examples
from slimcnn.datasets.images import Images
from slimcnn.errors import DataError, RunError
from slimcnn.files import kind_of, part_of, remove_leftovers, replacing

Parts = tuple[Images, Images]
"""The training and the test images as published."""

_AT_ONCE = 512
"""Images that are hashed together."""

HINT = "root= or the environment variable SLIMCNN_CACHE sets the cache folder"


def fingerprint(parts: Iterable[Examples]) -> str:
    """Compute the SHA-256 of labels (one byte each) and pixels, training images first; it depends on their order.

    >>> images = Images(torch.zeros(1, 1, 1, 1, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    >>> fingerprint((images, images)) == sha256(bytes(4)).hexdigest()
    True
    """
    digest = sha256()
    for images in parts:
        digest.update(images.labels.to(torch.uint8).numpy().data)
        for found in images.read(torch.arange(len(images)).split(_AT_ONCE), torch.device("cpu")):
            digest.update(found.pixels.contiguous().numpy().data)
    return digest.hexdigest()


def cached(path: Path, expected: str, make: Callable[[], Parts]) -> Parts:
    """Return the parts cached at `path`, or call `make` and cache its result.

    A file is valid if its content has the `expected` fingerprint (hashing CIFAR takes 0.1 s); a damaged file is
    replaced. A folder that cannot be written to raises `RunError` before `make` is called.
    """
    kept = _read(path)
    if kept is not None and fingerprint(kept) == expected:
        return kept
    require_writable(path.parent)
    remove_leftovers(path.parent, path.name)
    try:
        parts = make()
    except DataError as error:
        if kind_of(path) != "nothing":
            raise DataError(f"{path} is damaged and could not be replaced: {error}") from error
        raise
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(save(_tensors(parts)))
    except RunError as error:
        raise RunError(f"{error} ({HINT})") from error
    return parts


def require_writable(folder: Path) -> None:
    """Create the cache folder and check that it can be written to; `RunError` if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise RunError(f"cannot write to the cache folder {folder}: {error.strerror}; {HINT}") from error


@contextmanager
def workplace(path: Path) -> Iterator[Path]:
    """Create a temporary folder next to `path` for downloaded files.

    It is deleted when the block ends, or, after `kill -9`, the next time `path` is built.
    """
    folder = part_of(path)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tensors(parts: Parts) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, images in zip(("train", "test"), parts, strict=True):
        tensors[f"{name}.pixels"], tensors[f"{name}.labels"] = images.pixels, images.labels.to(torch.uint8)
    return tensors


def _read(path: Path) -> Parts | None:
    try:
        tensors = load_file(path)
        train, test = (
            Images(tensors[f"{part}.pixels"], tensors[f"{part}.labels"].long()) for part in ("train", "test")
        )
    except (OSError, SafetensorError, KeyError, DataError):
        return None
    return train, test
