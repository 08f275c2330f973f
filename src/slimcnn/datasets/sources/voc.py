"""Folders in the layout of Pascal VOC: images, and boxes as XML."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from slimcnn.datasets.boxes import ObjectBox, boxes_of, checked
from slimcnn.datasets.images import Augmentation, Dataset, Images, Normalization
from slimcnn.datasets.loading import datasets
from slimcnn.datasets.pictures import decode, survey
from slimcnn.errors import DataError

PARTS = {"train": "train", "validation": "val", "test": "test"}

PIXELS_ONLY = Normalization((0.0,) * 3, (1.0,) * 3)
"""Detectors normalize images themselves."""

SUFFIXES = (".jpg", ".jpeg", ".png")

LARGEST = 10_000_000
"""Bytes of an annotation file that are read."""


@datasets.add("voc", source="Everingham et al. 2010, The Pascal visual object classes challenge", task="detection")
def voc(*, source: Path | None, root: Path, seed: int) -> Dataset:
    """Images with boxes for detection, in the layout of Pascal VOC; needs a folder: voc:PATH.

    `PATH/JPEGImages` holds the images, `PATH/Annotations` one XML file for each, and `PATH/ImageSets/Main/train.txt`,
    `val.txt` and `test.txt` the names of the parts. All images must have the same size. Objects marked as difficult
    are left out. Classes are in the order of their names.
    """
    if source is None:
        raise DataError("voc needs a folder with JPEGImages, Annotations and ImageSets/Main: write voc:PATH")
    names = {part: _names(source, name) for part, name in PARTS.items()}
    found = {part: [_objects(source / "Annotations" / f"{name}.xml") for name in own] for part, own in names.items()}
    classes = tuple(sorted({kind for own in found.values() for objects in own for kind, _ in objects}))
    if not classes:
        raise DataError(f"{source / 'Annotations'} has no objects: check the annotations")
    _refuse_strangers(source, {name for own in names.values() for name in own})
    parts = {part: _images(source, names[part], found[part], classes) for part in PARTS}
    return Dataset(
        name="voc", classes=classes, train=parts["train"], validation=parts["validation"], test=parts["test"],
        normalization=PIXELS_ONLY, augmentation=Augmentation(flip=True),
        task="detection",
    )  # fmt: skip


def _names(source: Path, part: str) -> list[str]:
    path = source / "ImageSets" / "Main" / f"{part}.txt"
    try:
        names = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}; it has the name of one image a line") from error
    if not names:
        raise DataError(f"{path} names no images: add one name a line")
    return names


def _objects(path: Path) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Return the objects of an annotation: class, and corners in pixels."""
    try:
        text = path.read_bytes()[:LARGEST]
        if b"<!ENTITY" in text:  # an XML bomb expands them
            raise DataError(f"{path} defines entities: an annotation has none")
        tree = ElementTree.fromstring(text)
    except FileNotFoundError:
        raise DataError(f"there is no {path} for the image {path.stem}: add it, or remove the image's name") from None
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path} is broken: {error}; replace it") from error
    return [_object(one, path) for one in tree.iter("object") if one.findtext("difficult", "0").strip() != "1"]


def _object(one: Any, path: Path) -> tuple[str, tuple[float, float, float, float]]:
    try:
        corners = [float(one.findtext(f"bndbox/{name}")) for name in ("xmin", "ymin", "xmax", "ymax")]
        if any(value != value or abs(value) == float("inf") for value in corners):
            raise ValueError("a corner is not finite")
        kind = one.findtext("name").strip()
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} has an object without a name or with a broken box ({error}): correct it") from error
    # The published coordinates count from 1, and the last pixel belongs to the box.
    return kind, (corners[0] - 1, corners[1] - 1, corners[2], corners[3])


def _refuse_strangers(source: Path, named: set[str]) -> None:
    """Refuse annotations of images that do not exist."""
    for path in sorted((source / "Annotations").glob("*.xml")):
        if path.stem not in named and _image(source, path.stem) is None:
            raise DataError(f"{path} has no image in {source / 'JPEGImages'}: add the image, or remove the file")


def _image(source: Path, name: str) -> Path | None:
    return next((path for end in SUFFIXES if (path := source / "JPEGImages" / f"{name}{end}").exists()), None)


def _images(source: Path, names: list[str], found: list[Any], classes: tuple[str, ...]) -> Images:
    paths = []
    for name in names:
        path = _image(source, name)
        if path is None:
            raise DataError(f"there is no image {source / 'JPEGImages' / name}: add it, or remove its name")
        paths.append(path)
    look = survey(paths, None)
    _, height, width = look.shape
    boxes = [
        checked([ObjectBox(classes.index(kind), *corners) for kind, corners in objects], width, height, f"{name}.xml")
        for name, objects in zip(names, found, strict=True)
    ]
    return Images(decode(paths, look), boxes_of(boxes))
