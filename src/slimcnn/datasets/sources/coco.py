"""Folders in the layout of COCO: images, and boxes as JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from slimcnn.datasets.boxes import ObjectBox, boxes_of, checked
from slimcnn.datasets.images import Augmentation, Dataset, Images, Normalization
from slimcnn.datasets.loading import datasets
from slimcnn.datasets.pictures import decode, survey
from slimcnn.errors import DataError

PARTS = ("train", "validation", "test")

PIXELS = Normalization((0.0,) * 3, (1.0,) * 3)
"""Detectors normalize images themselves."""


@datasets.add("coco", source="Lin et al. 2014, arXiv 1405.0312", task="detection")
def coco(*, source: Path | None, root: Path, seed: int) -> Dataset:
    """Images with boxes for detection, in the layout of COCO; needs a folder: coco:PATH.

    `PATH/train`, `validation` and `test` hold the images, `PATH/annotations/train.json`, `validation.json` and
    `test.json` the boxes. All images must have the same size. Crowds are left out. Classes are those of train.json.
    """
    if source is None:
        raise DataError("coco needs a folder with annotations/train.json and train, validation, test: write coco:PATH")
    plain = {part: _read(source / "annotations" / f"{part}.json") for part in PARTS}
    kinds = {one["id"]: str(one["name"]) for one in plain["train"]["categories"]}
    order = {kind: place for place, kind in enumerate(sorted(kinds))}
    parts = {part: _images(source / part, plain[part], order, f"{part}.json") for part in PARTS}
    return Dataset(
        name="coco", classes=tuple(kinds[kind] for kind in order),
        train=parts["train"], validation=parts["validation"], test=parts["test"],
        normalization=PIXELS,
        augmentation=Augmentation(flip=True), task="detection",
    )  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in ("images", "annotations", "categories") if not isinstance(plain.get(key), list)]
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"cannot read {path}: {str(error)[:200]}; it is the JSON of COCO") from error
    if missing:
        raise DataError(
            f"{path} has no list of {missing[0]}: it is the JSON of COCO, with images, annotations, categories"
        )
    return dict(plain)


def _images(folder: Path, plain: dict[str, Any], order: dict[Any, int], where: str) -> Images:
    try:
        files = {one["id"]: folder / str(one["file_name"]) for one in plain["images"]}
        boxes: dict[Any, list[ObjectBox]] = defaultdict(list)
        for one in plain["annotations"]:
            if one["image_id"] not in files:
                raise DataError(f"{where}: annotation {one.get('id')} is of the unknown image {one['image_id']}")
            if one["category_id"] not in order:
                raise DataError(f"{where}: annotation {one.get('id')} has the unknown category {one['category_id']}")
            if not one.get("iscrowd"):
                x, y, width, height = map(float, one["bbox"])
                boxes[one["image_id"]].append(ObjectBox(order[one["category_id"]], x, y, x + width, y + height))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where} is broken: {type(error).__name__} {error}; it is the JSON of COCO") from error
    missing = [path for path in files.values() if not path.exists()]
    if missing:
        raise DataError(f"there is no image {missing[0]}, which {where} names: add it, or remove it from the file")
    if not files:
        raise DataError(f"{where} names no images")
    look = survey(list(files.values()), None)
    _, high, wide = look.shape
    found = [checked(boxes[key], wide, high, f"{where}, image {path.name}") for key, path in files.items()]
    return Images(decode(list(files.values()), look), boxes_of(found))
