"""Batches as a loader of the user gives them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor

from slimcnn.datasets.augmenting import ImageTransforms
from slimcnn.datasets.examples import Examples, Places, ReadBatch
from slimcnn.datasets.images import Augmentation, Dataset, Images, Normalization
from slimcnn.datasets.seeding import seeded
from slimcnn.errors import DataError

AnyLoader: TypeAlias = Iterable[Any]
"""Anything that gives batches (images, labels) each time it is iterated, such as a `DataLoader`."""

IMAGES, LABELS = ("pixel_values", "image", "images", "x"), ("labels", "label", "y")
"""Keys of a batch that is a mapping."""


@dataclass(frozen=True, eq=False)
class GivenBatches:
    """Batches of float32 images, ready for a network, and of labels, in the order of the loader; fulfills `Examples`.

    Size, order and augmentation of the batches are the loader's. Random numbers are seeded for every batch, from seed
    and epoch, so that a `DataLoader` with `shuffle=True` gives the same batches again when a run resumes; batches
    before that are read and left out. With several processes, the loader of each gives its share, such as by a
    `DistributedSampler`, whose `set_epoch` is called.

    >>> given = GivenBatches([(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))])
    >>> len(given), given.shape, [len(y) for _, y in given.feed(torch.device("cpu"))]
    (2, (3, 8, 8), [2])
    """

    loader: AnyLoader
    classes: int | None = None
    """Labels must be below it; None: unknown."""
    most: int | None = None
    """Maximum number of images; None: all."""

    @cached_property
    def labels(self) -> Tensor:
        """Unknown before the batches are read: empty."""
        return torch.empty(0, dtype=torch.int64)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the first image."""
        channels, height, width = self._first[0].shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Where the loader puts its batches is its concern."""
        return torch.device("cpu")

    @property
    def nbytes(self) -> int:
        """No pixels are kept."""
        return 0

    def __len__(self) -> int:
        # Of a loader that does not know its length, there is at least the first batch.
        found = len(self._first[0])
        with suppress(TypeError):
            found *= len(self.loader)  # type: ignore[arg-type]
        with suppress(TypeError, AttributeError):
            found = len(self.loader.dataset)  # type: ignore[attr-defined]
        return found if self.most is None else min(found, self.most)

    @property
    def steps(self) -> int:
        """The number of batches; `DataError` if the loader does not know it."""
        try:
            return len(self.loader)  # type: ignore[arg-type]
        except TypeError:
            raise DataError(
                f"a {type(self.loader).__name__} has no length, and the learning rate depends on the number of steps: "
                "give the loader a __len__ that returns its number of batches"
            ) from None

    def take(self, positions: Tensor) -> GivenBatches:
        """Refuse to choose: a loader gives its batches in its own order."""
        raise DataError(_NOT_BY_POSITION)

    def limit(self, n: int, *, seed: int = 0, by_class: bool = True) -> GivenBatches:
        """Return the first `n` images."""
        return replace(self, most=n if self.most is None else min(n, self.most))

    def to(self, device: torch.device | str) -> GivenBatches:
        """Return the same batches: they are moved one by one."""
        return self

    def read(
        self, places: Iterable[Places], device: torch.device, key: str = "", transforms: ImageTransforms | None = None
    ) -> Iterator[ReadBatch]:
        """Refuse to choose: a loader gives its batches in its own order."""
        raise DataError(_NOT_BY_POSITION)

    def in_memory(self) -> Images:
        """Refuse: the images have been normalized, their pixels are unknown."""
        raise DataError(_NOT_BY_POSITION)

    def feed(
        self, device: torch.device, *, key: str = "", epoch: int = 0, start: int = 0,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
        """Yield the batches, from number `start` on, on a device."""
        for name in ("sampler", "batch_sampler"):
            set_epoch: Any = getattr(getattr(self.loader, name, None), "set_epoch", None)
            if set_epoch is not None:
                set_epoch(epoch)
        feed, left, number = None, self.most, 0
        while left is None or left > 0:
            with seeded(f"{key}/batch {number}"):
                feed = iter(self.loader) if feed is None else feed
                batch = next(feed, None)
            if batch is None:
                return
            x, y = _pair(batch, number)
            x, y = x[:left], y[:left]
            left = None if left is None else left - len(y)
            if number >= start and len(y):
                self._check(y, number)
                yield x.to(device, memory_format=memory_format, non_blocking=True), y.to(device, non_blocking=True)
            number += 1

    @cached_property
    def _first(self) -> tuple[Tensor, Tensor]:
        found = next(self.feed(torch.device("cpu"), key="first"), None)
        if found is None:
            raise DataError("the loader gives no batch: it needs at least one")
        return found

    def _check(self, y: Tensor, number: int) -> None:
        if self.classes is not None and (int(y.min()) < 0 or int(y.max()) >= self.classes):
            found = f"{int(y.min())} to {int(y.max())}"
            raise DataError(
                f"batch {number} has labels {found}, but the network has {self.classes} outputs: labels start at 0"
            )


_NOT_BY_POSITION = (
    "a loader gives batches in its own order, so images cannot be chosen: pass a dataset (slimcnn.load_dataset, or "
    "package.module:function for your own)"
)


def given_dataset(train: AnyLoader, validation: AnyLoader | None, outputs: int) -> Dataset:
    """Return a dataset of the batches of loaders; without validation batches, those of training stand in for them."""
    first = GivenBatches(train, outputs)
    second = first if validation is None else GivenBatches(validation, outputs)
    return Dataset(
        name="loader",
        classes=tuple(map(str, range(outputs))),
        train=first,
        validation=second,
        test=second,
        normalization=Normalization.none(first.shape[0]),
        augmentation=Augmentation(),
    )


def examples_of(images: Examples | AnyLoader) -> Examples:
    """Return images as they are, and the batches of a loader as `Examples`."""
    return images if hasattr(images, "in_memory") else GivenBatches(images)  # type: ignore[return-value]


def _pair(batch: Any, number: int) -> tuple[Tensor, Tensor]:
    """Return the images and the labels of a batch."""
    x: Any = None
    y: Any = None
    if isinstance(batch, Mapping):
        x = next((batch[name] for name in IMAGES if name in batch), None)
        y = next((batch[name] for name in LABELS if name in batch), None)
    elif isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) >= 2:
        x, y = batch[0], batch[1]
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        raise DataError(f"batch {number} of the loader is a {type(batch).__name__}: expected (images, labels), tensors")
    if x.ndim != 4 or not x.is_floating_point():
        found = f"{x.dtype} of shape {tuple(x.shape)}"
        raise DataError(f"batch {number} has images {found}: expected float tensors (n, c, h, w), normalized")
    if y.ndim != 1 or len(y) != len(x) or y.is_floating_point() or y.dtype == torch.bool:
        found = f"{y.dtype} of shape {tuple(y.shape)}"
        raise DataError(f"batch {number} has labels {found}: expected {len(x)} class numbers")
    return x, y.long()
