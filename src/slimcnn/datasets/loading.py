"""Load a dataset by name or from a folder."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Protocol

from slimcnn.datasets.folder import load_folder
from slimcnn.datasets.images import Dataset
from slimcnn.datasets.reading import ImageReading
from slimcnn.datasets.scaling import ImageSize, Interpolation, Scaling, sides
from slimcnn.datasets.sizing import resized
from slimcnn.errors import DataError, UnknownName
from slimcnn.files import cache_folder, kind_of
from slimcnn.registry import Registry

FUNCTION = "package.module"
"""The source that stands for functions of users, which have any name."""


class Loader(Protocol):
    """A function that loads a dataset; `seed` selects its validation part, its test part is always the same.

    `source` is the user's folder or archive, `root` the cache folder.
    """

    def __call__(self, *, source: Path | None, root: Path, seed: int) -> Dataset:
        """Load the dataset."""


class PictureSource(Protocol):
    """A function that finds pictures with labels, in a place that the user names; see `assembled`."""

    def __call__(
        self, source: str, *, image_size: ImageSize | None, seed: int, limit: int | None, reading: ImageReading
    ) -> Dataset:
        """Make a dataset of the pictures."""


datasets: Registry[Loader] = Registry("dataset", home="slimcnn.datasets.sources")

image_sources: Registry[PictureSource] = Registry("source of images", home="slimcnn.datasets.sources")
"""Kinds of places with images: `--data KIND:PLACE`."""


def load_dataset(
    name: str | Path,
    *,
    root: str | Path | None = None,
    image_size: ImageSize | None = None,
    resize: int | None = None,
    interpolation: Interpolation | None = None,
    seed: int = 0,
    limit: int | None = None,
    stream: bool | None = None,
    workers: int | None = None,
    skip_broken: bool = False,
) -> Dataset:
    """Load a dataset by name (`digits`, `cifar10` ...), or from one folder of images per class (see `load_folder`).

    `cifar100:PATH` reads the published files from the folder or archive PATH. Otherwise they are read from the cache
    folder, where the user may have put them, or downloaded. The cache folder is `root`, else the environment
    variable SLIMCNN_CACHE, else the user's cache folder. `image_size` is the side in pixels to which all images are
    scaled, or their height and width. Of pictures in files, the shorter side is first scaled to `resize` pixels, by
    default to as few as the crop allows, with `interpolation` (default: bicubic). `seed` selects the validation
    images; the test images are the same for every seed. `limit` is the largest number of images of each part (see
    `Dataset.limit`); of a folder, no other images are decoded.

    Images of a folder that do not fit into the free memory are streamed: `workers` processes decode them again in
    every epoch. `stream` forces it, or forbids it. `skip_broken` leaves out images that cannot be decoded, and notes
    them in `Dataset.broken`.

    Raises `UnknownName`, `DataError` if the data is missing, damaged or differs from the published data, or `RunError`
    if the cache folder cannot be written to.

    >>> dataset = load_dataset("digits")
    >>> len(dataset.train), len(dataset.validation), len(dataset.test), dataset.shape
    (1257, 180, 360, (1, 8, 8))
    """
    if image_size is not None and min(sides(image_size)) < 1:
        raise DataError(f"image_size is {image_size}: use at least 1 pixel")
    name = os.fspath(name)
    known, _, source = name.partition(":")
    if known in datasets:
        if stream:
            raise DataError(
                f"{known} is read into memory as one file; only a folder of images can be streamed: leave stream out"
            )
        if resize is not None or interpolation is not None:
            raise DataError(f"{known} has images of one size: resize and interpolation are for pictures in files")
        place = Path(os.path.expanduser(source)) if source else None
        dataset = datasets[known].value(source=place, root=cache_folder(root), seed=seed)
        dataset = dataset.limit(limit) if limit is not None else dataset
        return resized(dataset, image_size) if image_size else dataset
    reading = ImageReading(stream, workers, skip_broken, Scaling(resize, interpolation or "bicubic"))
    if known in image_sources:
        return image_sources[known].value(source, image_size=image_size, seed=seed, limit=limit, reading=reading)
    if re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", name):
        return image_sources[FUNCTION].value(name, image_size=image_size, seed=seed, limit=limit, reading=reading)
    folder = Path(os.path.expanduser(name))
    if kind_of(folder, DataError) == "folder":
        return load_folder(folder, image_size=image_size, seed=seed, limit=limit, reading=reading)
    if os.sep in name or "/" in name or name.startswith((".", "~")):
        raise DataError(f"no folder {name}: expected a folder with one folder of images per class")
    known_names = [*(entry.name for entry in datasets), *(f"{entry.name}:PLACE" for entry in image_sources)]
    raise UnknownName("dataset", name, ["FOLDER (with one folder of images per class)", *known_names])
