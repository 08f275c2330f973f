"""How the images of a dataset are read: from memory or decoded on the way."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from slimcnn.datasets.examples import Examples
from slimcnn.datasets.images import Normalization
from slimcnn.datasets.scaling import AS_LARGE, Scaling
from slimcnn.datasets.sizing import free_memory

COPIES = 2
"""Copies of the pixels that a run may hold: a step that selects images copies them, as does a second process."""

MEASURED_ON = 128
"""Number of training images of a stream on which its normalization is measured."""


@dataclass(frozen=True)
class ImageReading:
    """How images are read.

    >>> ImageReading(stream=True, workers=4)
    ImageReading(stream=True, workers=4, skip_broken=False, scaling=Scaling(resize=None, interpolation='bicubic'))
    """

    stream: bool | None = None
    """Whether images are decoded again in every epoch, by worker processes, instead of once into memory; None: if two
    copies of their pixels do not fit into the free memory."""
    workers: int | None = None
    """Number of processes that decode; None: one per processor, at most 8. It changes the speed, never the pixels."""
    skip_broken: bool = False
    """Whether broken images are left out and counted; otherwise they are errors."""
    scaling: Scaling = AS_LARGE
    """How pictures are scaled, if there is an image size."""


def streamed(reading: ImageReading, count: int, shape: tuple[int, int, int]) -> bool:
    """Return whether so many images of a shape are streamed.

    >>> streamed(ImageReading(), 10**12, (3, 224, 224)), streamed(ImageReading(), 10, (3, 224, 224))
    (True, False)
    """
    if reading.stream is not None:
        return reading.stream
    free = free_memory()
    return free is not None and COPIES * count * prod(shape) > free


def normalization_of(train: Examples) -> Normalization:
    """Measure mean and standard deviation on training images: on all in memory, on some of a stream."""
    some = train if train.nbytes else train.limit(MEASURED_ON)
    return Normalization.measured(some.in_memory().pixels)
