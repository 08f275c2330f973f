"""What training and evaluation read: labeled images, wherever they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from slimcnn.datasets.augmenting import ImageTransforms
    from slimcnn.datasets.images import Images

Places: TypeAlias = slice | Tensor
"""The positions of the images of one batch: a range, or int64 `(m,)`."""


class ReadBatch(NamedTuple):
    """Some images, not normalized yet."""

    pixels: Tensor
    """uint8 `(m, c, h, w)`; float32 if the user's dataset returns tensors that are ready for a network."""
    labels: Tensor
    """int64 `(m,)`"""
    kept: Tensor | None = None
    """Which of the requested images these are, int64 `(m,)`; None: all. Broken images may be left out."""


class Examples(Protocol):
    """Labeled images of one shape. `Images` keeps them in memory, `Stream` decodes them while they are read.

    All of them have labels in memory, so that images can be chosen by class without decoding any. How images are
    ordered, augmented and normalized is not their concern: `batches` does it, so that the same images give the same
    bits from memory and from a stream.
    """

    @property
    def labels(self) -> Tensor:
        """The class of every image, int64 `(n,)`; empty if it is unknown before an image is read."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""

    @property
    def device(self) -> torch.device:
        """The device on which positions are expected."""

    @property
    def nbytes(self) -> int:
        """Bytes of pixels in memory."""

    def __len__(self) -> int:
        """The number of images."""

    def take(self, positions: Tensor) -> Self:
        """Return the images at these positions, in this order."""

    def limit(self, n: int, *, seed: int = 0, by_class: bool = True) -> Self:
        """Return at most `n` images, the same for the same seed: stratified by class, or without a look at labels."""

    def to(self, device: torch.device | str) -> Self:
        """Return the same images on another device; a stream stays as it is."""

    def read(
        self, places: Iterable[Places], device: torch.device, key: str = "", transforms: ImageTransforms | None = None
    ) -> Iterator[ReadBatch]:
        """Yield the images of every batch, in order, each transformed by `transforms`; they will be moved to `device`.

        What is random in reading an image (a transform) depends on the key, which names seed and epoch, and on the
        position of the image only.
        """

    def in_memory(self) -> Images:
        """Return all images in memory; `DataError` if there is too little."""
