"""Make a dataset of pictures with labels: missing parts are split off, images streamed or decoded into memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from slimcnn.datasets.examples import Examples
from slimcnn.datasets.images import Augmentation, Dataset, Normalization, chosen_by_limit
from slimcnn.datasets.pictures import BrokenFiles, BrokenImage, Survey, common_look, header_of
from slimcnn.datasets.reading import ImageReading, normalization_of, streamed
from slimcnn.datasets.scaling import ImageSize, Scaling, by, sides
from slimcnn.datasets.splitting import split
from slimcnn.datasets.streams import READY, Pictures, Stream
from slimcnn.errors import DataError

SHARES = {"test": 0.2, "validation": 0.1}
"""Shares of the training images that become a missing part."""

SURVEYED = 64
"""Number of images that are opened to find the common mode and shape; opening one may decode it."""


@dataclass(frozen=True, eq=False)
class LabeledPictures:
    """The pictures of one part, with their labels."""

    pictures: Pictures
    labels: Tensor
    numbers: Tensor | None = None
    """Which of the pictures, `(n,)`; None: all."""

    def take(self, positions: Tensor) -> LabeledPictures:
        """Return the pictures at these positions."""
        numbers = positions if self.numbers is None else self.numbers[positions]
        return replace(self, labels=self.labels[positions], numbers=numbers)

    @property
    def order(self) -> list[int]:
        """The numbers of the pictures."""
        found: list[int] = (torch.arange(len(self.labels)) if self.numbers is None else self.numbers).tolist()
        return found


def assembled(
    name: str,
    classes: tuple[str, ...],
    parts: Mapping[str, LabeledPictures],
    *,
    image_size: ImageSize | None,
    seed: int,
    limit: int | None,
    reading: ImageReading,
) -> Dataset:
    """Make a dataset of pictures, by the rules of `load_folder`.

    Raises:
        DataError: no training pictures, labels out of range, broken pictures, or pictures of mixed sizes.
    """
    for part, found in parts.items():
        _check_labels(name, part, found.labels, classes)
    whole = _limited(_with_missing_parts(parts, seed), limit)
    broken: BrokenFiles = {}
    look = _look(list(whole.values()), image_size, broken if reading.skip_broken else None, reading.scaling)
    ready = look.mode == READY
    streams = {
        part: Stream(found.pictures, found.labels, look, found.numbers, reading.workers, reading.skip_broken, broken)
        for part, found in whole.items()
    }
    kept: dict[str, Examples] = dict(streams)
    if not ready and not streamed(reading, sum(map(len, streams.values())), look.shape):
        kept = {part: stream.in_memory() for part, stream in streams.items()}
    return Dataset(
        name=name,
        classes=classes,
        train=kept["train"],
        validation=kept["validation"],
        test=kept["test"],
        normalization=Normalization.none(look.shape[0]) if ready else normalization_of(kept["train"]),
        augmentation=Augmentation() if ready else Augmentation(crop=min(look.shape[1:]) // 8, flip=True),
        broken=broken,
        scaling=reading.scaling,
    )


def _check_labels(name: str, part: str, labels: Tensor, classes: tuple[str, ...]) -> None:
    if not len(labels):
        raise DataError(f"{name}: no {part} images")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(classes):
        raise DataError(f"{name}: {part} images have labels {low} to {high}, but there are {len(classes)} classes")


def _with_missing_parts(parts: Mapping[str, LabeledPictures], seed: int) -> dict[str, LabeledPictures]:
    found, train, total = dict(parts), parts["train"], len(parts["train"].labels)
    for part, share in SHARES.items():
        if part not in found:
            names = [train.pictures.name(number) for number in train.order]
            key = part if part == "test" else f"{part}/{seed}"
            kept, held_out = split(train.labels, max(1, round(share * total)), key, names=names)
            found[part], train = train.take(held_out), train.take(kept)
    return found | {"train": train}


def _limited(parts: dict[str, LabeledPictures], limit: int | None) -> dict[str, LabeledPictures]:
    if limit is None:
        return parts
    chosen = {part: chosen_by_limit(found.labels, limit) for part, found in parts.items()}
    return {part: found if (some := chosen[part]) is None else found.take(some) for part, found in parts.items()}


def _look(
    parts: list[LabeledPictures], image_size: ImageSize | None, broken: BrokenFiles | None, scaling: Scaling
) -> Survey:
    """Find the mode and shape that the pictures have in common, from some of them."""
    found = []
    for part in parts:
        order = part.order
        for number in order[:: -(-len(order) // SURVEYED)]:
            name = part.pictures.name(number)
            try:
                with part.pictures.open(number) as picture:
                    if isinstance(picture, Tensor):
                        return _ready(name, picture, image_size, scaling)
                    found.append((name, *header_of(picture)))
            except BrokenImage as error:
                if broken is None:
                    raise
                broken[name] = str(error)
    return common_look(found, image_size, scaling)


def _ready(name: str, tensor: Tensor, image_size: ImageSize | None, scaling: Scaling) -> Survey:
    channels, height, width = tensor.shape
    if (image_size is not None and (height, width) != sides(image_size)) or scaling.resize is not None:
        asked = by(sides(image_size)) if image_size is not None else "any size"
        raise DataError(
            f"{name} is a tensor of {width} x {height}, ready for a network: it is not scaled to {asked}; "
            "change the transform of your dataset, or return PIL images"
        )
    return Survey(READY, (channels, height, width), fit=False)
