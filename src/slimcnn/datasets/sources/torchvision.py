"""Datasets of torchvision, from files on this machine."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slimcnn.datasets.assembling import LabeledPictures, assembled
from slimcnn.datasets.images import Dataset
from slimcnn.datasets.items import Items, labels_of
from slimcnn.datasets.loading import image_sources
from slimcnn.datasets.reading import ImageReading
from slimcnn.datasets.scaling import ImageSize
from slimcnn.errors import DataError, UnknownName
from slimcnn.files import cache_folder
from slimcnn.importing import one_line

SPLITS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}


@image_sources.add("torchvision", source="torchvision.datasets, docs.pytorch.org/vision/stable/datasets.html")
def torchvision(
    source: str, *, image_size: ImageSize | None, seed: int, limit: int | None, reading: ImageReading
) -> Dataset:
    """A class of torchvision.datasets, such as `torchvision:Flowers102:FOLDER`; nothing is downloaded.

    FOLDER is the argument `root` of the class; by default `torchvision` in the cache folder.
    """
    from torchvision import datasets

    name, _, folder = source.partition(":")
    root = Path(os.path.expanduser(folder)) if folder else cache_folder() / "torchvision"
    kind = getattr(datasets, name, None) if name in datasets.__all__ else None
    if kind is None:
        raise UnknownName("torchvision dataset", name, sorted(datasets.__all__))
    found = {part: one for part, make in _makers(kind, root).items() if (one := _made(name, root, make)) is not None}
    if "train" not in found:
        raise DataError(f"torchvision:{name} has no training part: name a function that makes one (package.module:fn)")
    labels = {part: labels_of(one, f"torchvision:{name}, {part}") for part, one in found.items()}
    parts = {part: LabeledPictures(Items(one, f"{name} {part}"), labels[part]) for part, one in found.items()}
    known = getattr(found["train"], "classes", None)
    count = 1 + max(int(each.max()) for each in labels.values())
    classes = tuple(map(str, known)) if known else tuple(map(str, range(count)))
    return assembled(name.lower(), classes, parts, image_size=image_size, seed=seed, limit=limit, reading=reading)


def _makers(kind: Callable[..., Any], root: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the arguments to try for every part: classes call it train or split."""
    parameters = inspect.signature(kind).parameters
    if "train" in parameters:
        return {part: [{"train": part == "train"}] for part in ("train", "test")}
    if "split" in parameters:
        return {part: [{"split": name} for name in names] for part, names in SPLITS.items()}
    return {"train": [{}]}


def _made(name: str, root: Path, attempts: list[dict[str, Any]]) -> Any:
    """Make one part; None if the class has no such part."""
    from torchvision import datasets

    for arguments in attempts:
        try:
            found = getattr(datasets, name)(str(root), **arguments)
        except (RuntimeError, OSError) as error:
            said = str(error).partition("\n")[0].split(" You can use")[0].rstrip(".")
            raise DataError(f"torchvision:{name} cannot be read from {root}: {said}; put its files there") from error
        except ValueError:  # it has no part of this name
            continue
        except Exception as error:
            raise DataError(f"torchvision:{name} cannot be made from {root}: {one_line(error)}") from error
        return found
    return None
