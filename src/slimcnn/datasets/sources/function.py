"""Datasets made by a function of the user."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from slimcnn.datasets.assembling import LabeledPictures, assembled
from slimcnn.datasets.folder import VALIDATION_NAMES
from slimcnn.datasets.images import Dataset
from slimcnn.datasets.items import Items, labels_of
from slimcnn.datasets.loading import FUNCTION, image_sources
from slimcnn.datasets.reading import ImageReading
from slimcnn.datasets.scaling import ImageSize
from slimcnn.errors import DataError
from slimcnn.importing import import_module, one_line, working_directory_on_path

PARTS = ("train", "validation", "test")
EXPECTED = "return a dict of train, validation and test datasets, and classes if they have names"


@image_sources.add(FUNCTION, source="your own Python")
def function(
    source: str, *, image_size: ImageSize | None, seed: int, limit: int | None, reading: ImageReading
) -> Dataset:
    """A function of yours, `package.module:function`, that returns train, validation and test datasets.

    It returns a dict with the key train, and optionally validation and test (otherwise they are split off), each a
    dataset with `__getitem__`, `__len__` and `targets`. An item is (image, label). The image is a PIL image or a uint8
    tensor (c, h, w), or a float tensor that is ready for the network; then its transforms are yours. The key classes
    names the classes. A `slimcnn.Dataset`, or a tuple of two or three datasets, is taken too. `image_size`, `seed` and
    `limit` are passed if the function takes them.
    """
    asked = {"image_size": image_size, "seed": seed, "limit": limit}
    with working_directory_on_path():
        found = _called(source, {name: value for name, value in asked.items() if value is not None})
        if isinstance(found, Dataset):
            return found if limit is None else found.limit(limit)
        parts, known = _parts(source, found)
        labels = {part: labels_of(one, f"{source}, {part}") for part, one in parts.items()}
    pictures = {part: LabeledPictures(Items(one, f"{source}, {part}:"), labels[part]) for part, one in parts.items()}
    known = known or getattr(parts["train"], "classes", None)
    count = 1 + max((int(each.max()) for each in labels.values() if len(each)), default=0)
    classes = tuple(map(str, known)) if known else tuple(map(str, range(count)))
    name = source.replace(":", ".")
    return assembled(name, classes, pictures, image_size=image_size, seed=seed, limit=limit, reading=reading)


def _called(source: str, asked: dict[str, Any]) -> Any:
    module, _, attribute = source.partition(":")
    try:
        make = attrgetter(attribute)(import_module(module, source, DataError))
    except AttributeError as error:
        raise DataError(f"module {module!r} has no {attribute!r}: cannot load {source!r}") from error
    if not callable(make):
        raise DataError(f"{source} is a {type(make).__name__}: name a function that returns datasets")
    try:
        taken = inspect.signature(make).parameters
        return make(**{name: value for name, value in asked.items() if name in taken})
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{source} failed: {one_line(error)}") from error


def _parts(source: str, found: Any) -> tuple[dict[str, Any], Sequence[str] | None]:
    """Return the datasets by part, and the names of the classes if they are known."""
    if isinstance(found, tuple) and len(found) in (2, 3):
        found = dict(zip(PARTS if len(found) == 3 else ("train", "validation"), found, strict=True))
    if not isinstance(found, Mapping):
        raise DataError(f"{source} returned a {type(found).__name__}: {EXPECTED}")
    parts = {"validation" if name in VALIDATION_NAMES else name: one for name, one in found.items()}
    known = parts.pop("classes", None)
    if "train" not in parts or parts.keys() - set(PARTS):
        raise DataError(f"{source} returned a dict of {', '.join(map(str, found)) or 'nothing'}: {EXPECTED}")
    for part, one in parts.items():
        if not (hasattr(one, "__getitem__") and hasattr(one, "__len__")):
            raise DataError(f"{source}: {part} is a {type(one).__name__} without __getitem__ and __len__: {EXPECTED}")
    return parts, known
