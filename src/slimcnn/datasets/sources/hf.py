"""Datasets of Hugging Face."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from slimcnn.datasets.assembling import LabeledPictures, assembled
from slimcnn.datasets.folder import VALIDATION_NAMES
from slimcnn.datasets.images import Dataset
from slimcnn.datasets.loading import image_sources
from slimcnn.datasets.pictures import BrokenImage, opened
from slimcnn.datasets.reading import ImageReading
from slimcnn.datasets.scaling import ImageSize
from slimcnn.errors import DataError
from slimcnn.importing import one_line

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


@image_sources.add("hf", source="Hugging Face datasets, huggingface.co/docs/datasets")
def hf(source: str, *, image_size: ImageSize | None, seed: int, limit: int | None, reading: ImageReading) -> Dataset:
    """A dataset of the Hugging Face hub, or a folder in a layout of theirs: `hf:uoft-cs/cifar10`, `hf:FOLDER`.

    It needs a column of images and one of class labels. Its files are downloaded once, into the cache of Hugging Face,
    and are then read from disk image by image. Needs the package datasets: `pip install 'slimcnn[hf]'`.
    """
    found = _loaded(source)
    splits = {"validation" if name in VALIDATION_NAMES else name: one for name, one in found.items()}
    splits = {name: one for name, one in splits.items() if name in ("train", "validation", "test")}
    if "train" not in splits:
        raise DataError(f"hf:{source} has the splits {', '.join(found)}: expected train")
    image, label, classes = _columns(source, splits["train"].features)
    parts = {}
    for part, one in splits.items():
        labels = torch.tensor(one[label][:], dtype=torch.int64)
        # A test split may come without labels: each is -1 then.
        if part == "test" and len(labels) and int(labels.max()) < 0:
            continue
        parts[part] = LabeledPictures(TableRows(_encoded(one, image), image, f"hf:{source}, {part}, row"), labels)
    name = os.path.basename(source.rstrip("/"))
    return assembled(name, classes, parts, image_size=image_size, seed=seed, limit=limit, reading=reading)


@dataclass(frozen=True, eq=False)
class TableRows:
    """The images in the rows of a table as `Pictures`."""

    table: Any
    column: str
    title: str

    def __len__(self) -> int:
        return len(self.table)

    def name(self, number: int) -> str:
        """Return the title, and the number of the row."""
        return f"{self.title} {number}"

    @contextmanager
    def open(self, number: int) -> Iterator[Picture]:
        """Open the encoded image of a row."""
        found = self.table[number][self.column]
        if not found or not (found["bytes"] or found["path"]):
            raise BrokenImage(f"{self.name(number)} is broken: it has no image; leave it out")
        file = io.BytesIO(found["bytes"]) if found["bytes"] else open(found["path"], "rb")  # noqa: SIM115 - with below
        with file, opened(file, self.name(number)) as picture:
            yield picture


def _loaded(source: str) -> Any:
    try:
        # Not the package alone: a folder of this name in the current directory can be imported too.
        from datasets import disable_progress_bars, load_dataset
    except ImportError as error:
        raise DataError(f"hf:{source} needs the package datasets: pip install 'slimcnn[hf]'") from error
    disable_progress_bars()
    try:
        return load_dataset(os.path.expanduser(source))
    except Exception as error:  # the hub and the formats raise many kinds
        hint = (
            "is the name right, and is there a network? A local folder with the files of the dataset works without one"
        )
        raise DataError(f"hf:{source} cannot be loaded: {one_line(error)}; {hint}") from error


def _columns(source: str, features: Any) -> tuple[str, str, tuple[str, ...]]:
    """Return the names of the columns of images and of labels, and the names of the classes."""
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    if len(images) != 1 or not labels:
        columns = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise DataError(f"hf:{source} has the columns {columns}: expected one of images and one of class labels")
    label = "label" if "label" in labels else labels[0]
    return images[0], label, tuple(features[label].names)


def _encoded(split: Any, column: str) -> Any:
    """Return the split with images as bytes: they are decoded by the rules of all other sources."""
    import datasets

    return split.cast_column(column, datasets.Image(decode=False))
