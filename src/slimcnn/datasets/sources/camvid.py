"""Folders of images and masks, in the layout of CamVid."""

from __future__ import annotations

from pathlib import Path

from slimcnn.datasets.folder import SUFFIXES
from slimcnn.datasets.images import Augmentation, Dataset, Images, Normalization
from slimcnn.datasets.loading import datasets
from slimcnn.datasets.masks import partners, read_masks
from slimcnn.datasets.pictures import decode, survey
from slimcnn.errors import DataError

CLASSES = "sky building pole road pavement tree sign fence car pedestrian cyclist".split()
UNLABELED = 11
"""The number of pixels without a class in CamVid: not counted."""

NAMES = "classes.txt"

PARTS = {"train": "train", "validation": "val", "test": "test"}


@datasets.add(
    "camvid",
    source="Brostow, Fauqueur, Cipolla 2009; in the 11 classes of Badrinarayanan, Kendall, Cipolla 2015",
    classes=len(CLASSES),
    task="segmentation",
)
def camvid(*, source: Path | None, root: Path, seed: int) -> Dataset:
    """Images and masks for segmentation, in the layout of CamVid; needs a folder: camvid:PATH.

    `PATH/train`, `val` and `test` hold images, `trainannot`, `valannot` and `testannot` masks of the same name as PNG:
    one class number for a pixel, 255 for pixels that are not counted. Without a file `classes.txt`, with one name a
    line, the classes are the 11 of CamVid, and 11 is not counted either.
    """
    if source is None:
        raise DataError("camvid needs a folder with train, trainannot, val ...: write camvid:PATH")
    names = _classes(source)
    parts = {part: _read(source, folder, tuple(names or CLASSES), () if names else (UNLABELED,))
             for part, folder in PARTS.items()}  # fmt: skip
    return Dataset(
        name="camvid", classes=tuple(names or CLASSES),
        train=parts["train"], validation=parts["validation"], test=parts["test"],
        normalization=Normalization.measured(parts["train"].pixels),
        augmentation=Augmentation(crop=min(parts["train"].shape[1:]) // 8, flip=True), task="segmentation",
    )  # fmt: skip


def _classes(source: Path) -> list[str]:
    try:
        lines = (source / NAMES).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {source / NAMES}: {error}; it has one class name a line") from error
    return [line.strip() for line in lines if line.strip()]


def _read(source: Path, folder: str, classes: tuple[str, ...], void: tuple[int, ...]) -> Images:
    images = files_in(source / folder, SUFFIXES)
    masks = partners(images, files_in(source / f"{folder}annot", (".png",)), "mask", ("_L", "_mask"))
    look = survey(images, None)
    height, width = look.shape[1:]
    return Images(decode(images, look), read_masks(masks, (height, width), len(classes), void))


def files_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """List the files of a folder with these suffixes, in the order of their names; `DataError` if there are none."""
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror or error}") from error
    if not found:
        raise DataError(f"{folder} has no files {', '.join(suffixes)}: check the path")
    return found
