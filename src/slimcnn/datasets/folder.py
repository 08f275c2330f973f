"""Load a dataset from one folder of images per class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimcnn.datasets.examples import Examples
from slimcnn.datasets.images import Augmentation, Dataset, Images, chosen_by_limit
from slimcnn.datasets.pictures import BrokenFiles, Survey, decode, opened, survey
from slimcnn.datasets.reading import ImageReading, normalization_of, streamed
from slimcnn.datasets.scaling import ImageSize
from slimcnn.datasets.sizing import require_memory
from slimcnn.datasets.splitting import split
from slimcnn.datasets.streams import Stream
from slimcnn.errors import DataError
from slimcnn.files import kind_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from PIL.Image import Image as Picture

Classes: TypeAlias = dict[str, list[Path]]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
VALIDATION_NAMES = ("val", "valid", "validation")
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1
SURVEYED = 500
"""Number of images whose headers are read before a stream starts."""

_DEFAULT = ImageReading()


def load_folder(
    folder: Path,
    *,
    image_size: ImageSize | None = None,
    seed: int = 0,
    limit: int | None = None,
    reading: ImageReading = _DEFAULT,
) -> Dataset:
    """Read `folder/train/CLASS/*.png` (and `validation`, `test` next to `train`), or `folder/CLASS/*.png`.

    Classes are numbered in the order of their names. Formats: PNG, JPEG, BMP and WebP. There is one channel if all
    images are gray, otherwise three. EXIF rotation is applied, transparency is ignored, of an animation the first
    frame is used. All images must have the same size unless `image_size` is given: then they are scaled (see
    `Scaling`) and the center is cropped.

    Without a test part, a fifth of the images becomes one, the same for every seed. Without a validation part, a
    tenth of the images becomes one, by seed. Both are stratified, and depend on the files' names, not on other files
    in the folder. `limit` is the largest number of images of each part; no others are decoded. Normalization is
    measured on the training images; the default augmentation is a crop with a padding of an eighth of the shorter
    side, and a horizontal flip.

    Images that do not fit into the free memory are streamed: decoded again in every epoch (see `ImageReading`). Then
    sizes and modes are compared on 500 images, and again when an image is read; normalization is measured on 128.

    Raises `DataError` for an empty class, a file that is not an image, a broken image, mixed sizes, 16-bit images,
    unknown classes in `validation` or `test`, fewer than two classes, too few images to split, and too little memory.
    """
    parts = _parts(folder)
    classes = tuple(parts["train"])
    everything = [path for part in parts.values() for path in _paths(part)]
    files = {part: _Files.of(found, classes) for part, found in parts.items()}
    files |= _split_off(files, folder, seed)
    if limit is not None:
        files = {part: found.limit(limit) for part, found in files.items()}
    broken: BrokenFiles = {}
    noted = broken if reading.skip_broken else None
    count = sum(len(found.paths) for found in files.values())
    look = survey(_spread(everything, SURVEYED), image_size, noted, reading.scaling)
    if streamed(reading, count, look.shape):
        images: dict[str, Examples] = {
            part: found.streamed(folder, look, reading, broken) for part, found in files.items()
        }
    else:
        look = survey(everything, image_size, noted, reading.scaling) if len(everything) > SURVEYED else look
        require_memory(count, look.shape)
        images = {part: found.decoded(look, noted) for part, found in files.items()}
    return Dataset(
        name=folder.resolve().name,
        classes=classes,
        train=images["train"],
        validation=images["validation"],
        test=images["test"],
        normalization=normalization_of(images["train"]),
        augmentation=Augmentation(crop=min(look.shape[1:]) // 8, flip=True),
        broken=broken,
        scaling=reading.scaling,
    )


def _spread(paths: list[Path], most: int) -> list[Path]:
    """Return at most so many paths, evenly spread."""
    return paths[:: -(-len(paths) // most)]


@dataclass(frozen=True)
class _Files:
    """The image files of one part, with their labels."""

    paths: list[Path]
    labels: Tensor

    @classmethod
    def of(cls, found: Classes, classes: tuple[str, ...]) -> _Files:
        labels = [classes.index(name) for name, paths in found.items() for _ in paths]
        return cls(_paths(found), torch.tensor(labels, dtype=torch.int64))

    def take(self, positions: Tensor) -> _Files:
        return _Files([self.paths[position] for position in positions.tolist()], self.labels[positions])

    def limit(self, n: int) -> _Files:
        chosen = chosen_by_limit(self.labels, n)
        return self if chosen is None else self.take(chosen)

    def decoded(self, look: Survey, broken: BrokenFiles | None) -> Images:
        if broken is None:
            return Images(decode(self.paths, look), self.labels)
        pixels = decode(self.paths, look, broken)
        if not broken:
            return Images(pixels, self.labels)
        whole = torch.tensor([str(path) not in broken for path in self.paths])
        return Images(pixels[whole], self.labels[whole])

    def streamed(self, folder: Path, look: Survey, reading: ImageReading, broken: BrokenFiles) -> Stream:
        pictures = ImageFiles.of(folder, self.paths)
        return Stream(pictures, self.labels, look, None, reading.workers, reading.skip_broken, broken)


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files as `Pictures`."""

    folder: str
    names: NDArray[np.bytes_]
    """Relative to the folder. One array: a million Python objects would be copied into every worker process."""

    @classmethod
    def of(cls, folder: Path, paths: Sequence[Path]) -> ImageFiles:
        """Return the files at these paths in a folder, in this order."""
        names = [os.fsencode(path.relative_to(folder)) for path in paths]
        return cls(str(folder), np.array(names, np.bytes_))

    def __len__(self) -> int:
        return len(self.names)

    def name(self, number: int) -> str:
        """Return the path of a file."""
        return os.path.join(self.folder, os.fsdecode(self.names[number].item()))

    def open(self, number: int) -> AbstractContextManager[Picture]:
        """Open a file as a picture."""
        path = Path(self.name(number))
        return opened(path, path)


def _split_off(files: dict[str, _Files], folder: Path, seed: int) -> dict[str, _Files]:
    """Return the missing parts, split off the training part, and the rest of it."""
    train, found, total = files["train"], {}, len(files["train"].paths)
    for part, share, key in (("test", TEST_SHARE, "test"), ("validation", VALIDATION_SHARE, f"validation/{seed}")):
        if part not in files:
            names = [path.relative_to(folder).as_posix() for path in train.paths]
            kept, held_out = split(train.labels, max(1, round(share * total)), key, names=names)
            found[part] = train.take(held_out)
            train = train.take(kept)
    return found | {"train": train}


def _parts(folder: Path) -> dict[str, Classes]:
    found = {path.name: path for path in _visible(folder) if kind_of(path, DataError) == "folder"}
    if "train" not in found:
        if found.keys() & {"test", *VALIDATION_NAMES}:
            raise DataError(f"{folder} has {', '.join(found)} but no train folder: name one of them train")
        return {"train": _classes(folder)}
    strangers = found.keys() - {"train", "test", *VALIDATION_NAMES}
    validations = [found[name] for name in VALIDATION_NAMES if name in found]
    if strangers or len(validations) > 1:
        others = ", ".join(sorted(found))
        raise DataError(
            f"{folder} has the folders {others}: expected train, and optionally test and one of {VALIDATION_NAMES}"
        )
    parts = {"train": _classes(found["train"])}
    if validations:
        parts["validation"] = _classes(validations[0])
    if "test" in found:
        parts["test"] = _classes(found["test"])
    for part, classes in parts.items():
        unknown = sorted(classes.keys() - parts["train"].keys())
        if unknown:
            raise DataError(f"{folder}: {part} has the class {unknown[0]!r}, train does not: add it there or remove it")
    return parts


def _classes(folder: Path) -> Classes:
    classes = {path.name: _files(path) for path in _visible(folder) if kind_of(path, DataError) == "folder"}
    if len(classes) < 2:
        found = f"found {len(classes)} folder(s)"
        raise DataError(f"{folder} needs one folder of images per class and at least two classes, {found}")
    return classes


def _files(folder: Path) -> list[Path]:
    files = _visible(folder)
    if not files:
        raise DataError(f"class folder {folder} is empty: put images into it or remove it")
    strangers = [path for path in files if path.suffix.lower() not in SUFFIXES or kind_of(path, DataError) != "file"]
    if strangers:
        raise DataError(f"{strangers[0]} is not an image ({', '.join(SUFFIXES)}): move it out of the class folder")
    return files


def _paths(classes: Classes) -> list[Path]:
    return [path for paths in classes.values() for path in paths]


def _visible(folder: Path) -> list[Path]:
    try:
        paths = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error
    return [path for path in paths if not path.name.startswith(".") and path.name not in ("Thumbs.db", "desktop.ini")]
