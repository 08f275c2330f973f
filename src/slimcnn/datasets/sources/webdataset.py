"""WebDataset: images and labels side by side in tar files."""

from __future__ import annotations

import glob
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from slimcnn.datasets.assembling import LabeledPictures, assembled
from slimcnn.datasets.folder import SUFFIXES, VALIDATION_NAMES
from slimcnn.datasets.images import Dataset
from slimcnn.datasets.loading import image_sources
from slimcnn.datasets.pictures import BrokenImage, opened
from slimcnn.datasets.reading import ImageReading
from slimcnn.datasets.scaling import ImageSize
from slimcnn.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MOST_LABEL_BYTES = 64 * 1024
"""A label file is a number, or a little JSON."""


@image_sources.add("webdataset", source="the WebDataset format, github.com/webdataset/webdataset")
def webdataset(
    source: str, *, image_size: ImageSize | None, seed: int, limit: int | None, reading: ImageReading
) -> Dataset:
    """Tar files (shards) with an image and a label per sample: `0001.jpg` and `0001.cls`, or `0001.json` with "label".

    `webdataset:FOLDER` takes `train*.tar`, and `val*.tar` and `test*.tar` if there are some. `webdataset:PATTERN`, such
    as `shards/train-{0000..0099}.tar` or `shards/*.tar`, takes these as training images. Only the headers of the
    shards are read at first. Then every image is found by its position, so that a run reads them in a random order
    that it can resume. The shards must be local and not compressed.
    """
    folder = Path(os.path.expanduser(source))
    shards = _shards_of_folder(folder) if folder.is_dir() else {"train": _expanded(source)}
    parts = {part: _indexed(paths) for part, paths in shards.items()}
    count = 1 + max(int(found.labels.max()) for found in parts.values())
    name = (folder if folder.is_dir() else Path(shards["train"][0]).parent).resolve().name
    classes = tuple(str(label) for label in range(count))
    return assembled(name, classes, parts, image_size=image_size, seed=seed, limit=limit, reading=reading)


@dataclass(frozen=True, eq=False)
class Shards:
    """Images in tar files as `Pictures`."""

    paths: tuple[str, ...]
    names: NDArray[np.bytes_]
    places: NDArray[np.int64]
    """The shard, the offset in it and the length of every image, `(n, 3)`."""

    def __len__(self) -> int:
        return len(self.places)

    def name(self, number: int) -> str:
        """Return the path of the shard, and the name of the image in it."""
        return f"{self.paths[self.places[number, 0]]}: {os.fsdecode(self.names[number].item())}"

    @contextmanager
    def open(self, number: int) -> Iterator[Picture]:
        """Read an image from its shard."""
        shard, offset, size = self.places[number].tolist()
        try:
            with open(self.paths[shard], "rb") as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise BrokenImage(f"{self.name(number)} cannot be read: {error.strerror}") from error
        with opened(io.BytesIO(content), self.name(number)) as picture:
            yield picture


def _shards_of_folder(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.tar")):
        part = re.match(r"[A-Za-z]*", path.name)
        kind = part[0].lower() if part else ""
        kind = "validation" if kind in VALIDATION_NAMES else kind
        if kind not in ("train", "validation", "test"):
            raise DataError(f"{path} belongs to no part: name shards train*.tar, val*.tar or test*.tar")
        found.setdefault(kind, []).append(str(path))
    if "train" not in found:
        raise DataError(f"{folder} has no train*.tar: name the shards of training images so, or pass a pattern")
    return found


def _expanded(pattern: str) -> list[str]:
    """Expand `{0000..0099}` and wildcards.

    >>> _expanded("/nowhere/train-{08..10}.tar")
    Traceback (most recent call last):
    slimcnn.errors.DataError: no shard /nowhere/train-08.tar: expected a local tar file, for webdataset:/nowhere/...
    """
    if "://" in pattern:
        raise DataError(f"webdataset:{pattern} is not local: download the shards, then pass their paths")
    pattern = os.path.expanduser(pattern)
    span = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if span:
        numbers = range(int(span[1]), int(span[2]) + 1)
        paths = [pattern.replace(span[0], str(number).zfill(len(span[1]))) for number in numbers]
    else:
        paths = sorted(glob.glob(pattern)) or [pattern]
    missing = next((path for path in paths if not os.path.isfile(path)), None)
    if missing or not paths:
        raise DataError(f"no shard {missing or pattern}: expected a local tar file, for webdataset:{pattern}")
    return paths


def _indexed(paths: Sequence[str]) -> LabeledPictures:
    """Find every image of the shards, and read the labels."""
    names, places, labels = [], [], []
    for shard, path in enumerate(paths):
        images, found = _index_of(path)
        for key, (name, offset, size) in images.items():
            if key not in found:
                raise DataError(f"{path}: {name} has no label: add {key}.cls, or {key}.json with a label")
            names.append(os.fsencode(name))
            places.append((shard, offset, size))
            labels.append(found[key])
    if not names:
        raise DataError(f"{paths[0]} has no images ({', '.join(SUFFIXES)})")
    pictures = Shards(tuple(paths), np.array(names, np.bytes_), np.array(places, np.int64))
    return LabeledPictures(pictures, torch.tensor(labels, dtype=torch.int64))


def _index_of(path: str) -> tuple[dict[str, tuple[str, int, int]], dict[str, int]]:
    """Return the name, offset and size of every image of a shard, and every label, by the key of the sample."""
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                key, suffix = f"{folder}/{stem}".lstrip("./"), f".{suffix.lower()}"
                if not member.isfile():
                    continue
                if suffix in SUFFIXES:
                    images[key] = (member.name, member.offset_data, member.size)
                elif suffix in (".cls", ".json"):
                    file = shard.extractfile(member)
                    content = file.read(MOST_LABEL_BYTES) if file is not None else b""
                    label = _label_of(content, suffix)
                    if label is None and suffix == ".cls":
                        raise DataError(f"{path}: {member.name} is not the number of a class: expected such as 7")
                    labels |= {} if label is None else {key: label}
            if not _ends(path, shard.offset):
                raise tarfile.ReadError("it has no end")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path} is not a complete tar file: {error}; copy it again") from error
    return images, labels


def _ends(path: str, offset: int) -> bool:
    """Return whether the block of zeros that ends a tar file is there: Python's reader accepts a file without it."""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def _label_of(content: bytes, suffix: str) -> int | None:
    try:
        if suffix == ".cls":
            return int(content)
        found = json.loads(content)
        label = found.get("label", found.get("cls")) if isinstance(found, dict) else None
        return label if type(label) is int else None
    except (ValueError, RecursionError):
        return None
