"""A user's dataset, item by item: pictures or tensors, with labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from slimcnn.datasets.pictures import BrokenImage
from slimcnn.errors import DataError
from slimcnn.importing import one_line

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


@dataclass(frozen=True, eq=False)
class Items:
    """The items of a dataset with `__getitem__` and `__len__`, each (image, label), as `Pictures`."""

    dataset: Any
    title: str
    """What messages call the dataset."""

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, number: int) -> str:
        """Return the title, and the number of the item."""
        return f"{self.title} image {number}"

    @contextmanager
    def open(self, number: int) -> Iterator[Picture | Tensor]:
        """Return the image of an item; the code of the dataset runs."""
        try:
            item = self.dataset[number]
        except (OSError, SyntaxError, ValueError) as error:
            raise BrokenImage(f"{self.name(number)} is broken: {one_line(error)}; repair or leave it out") from error
        except Exception as error:
            raise DataError(f"{self.name(number)} cannot be read: {one_line(error)}") from error
        if not isinstance(item, Sequence) or isinstance(item, str) or len(item) < 2:
            raise DataError(f"{self.name(number)} is {_called(item)}: return (image, label)")
        yield image_of(item[0], self.name(number))


def image_of(image: Any, name: str) -> Picture | Tensor:
    """Return a picture, or a float tensor that is ready for a network.

    >>> image_of(torch.zeros(3, 4, 5, dtype=torch.uint8), "photo").size
    (5, 4)
    >>> image_of([1, 2], "photo")
    Traceback (most recent call last):
    slimcnn.errors.DataError: photo is a list: return a PIL image, a uint8 tensor (c, h, w), or a float32 tensor ...
    """
    from PIL import Image

    if isinstance(image, Image.Image):
        return image
    found = torch.from_numpy(image).permute(2, 0, 1) if _is_picture_array(image) else image
    if isinstance(found, Tensor) and found.ndim == 3:
        if found.is_floating_point():
            return found.detach().float()
        if found.dtype == torch.uint8 and len(found) in (1, 3):
            array = found.permute(1, 2, 0).numpy()
            return Image.fromarray(array[:, :, 0] if len(found) == 1 else np.ascontiguousarray(array))
    raise DataError(
        f"{name} is {_called(image)}: return a PIL image, a uint8 tensor (c, h, w), or a float32 tensor "
        "(c, h, w) that is ready for the network"
    )


def labels_of(dataset: Any, title: str) -> Tensor:
    """Return the labels of a dataset without decoding its images, from `targets` or `labels`, as torchvision has them.

    >>> class Two:
    ...     targets = [1, 0]
    ...     def __len__(self): return 2
    >>> labels_of(Two(), "two")
    tensor([1, 0])
    """
    for owner in _through_subsets(dataset):
        for name in ("targets", "labels", "_labels"):
            found = getattr(owner[0], name, None)
            if found is not None and len(found) == len(owner[0]):
                return _as_labels(found, title)[owner[1]]
    raise DataError(
        f"{title} does not say its labels: give the dataset an attribute targets with one class number per image, so "
        "that images can be chosen by class before they are decoded"
    )


def _through_subsets(dataset: Any) -> Iterator[tuple[Any, Any]]:
    """Return the dataset and, of a `Subset`, the dataset that it is taken from, with the positions in it."""
    positions: Any = slice(None)
    while True:
        yield dataset, positions
        if not isinstance(dataset, torch.utils.data.Subset):
            return
        own = torch.as_tensor(list(dataset.indices))
        positions, dataset = own[positions], dataset.dataset


def _as_labels(found: Any, title: str) -> Tensor:
    try:
        labels = torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError):
        labels = torch.empty(0, 0)
    if labels.shape == (0,):
        return labels.long()
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise DataError(f"{title} has targets that are not class numbers: expected one integer per image")
    return labels.long()


def _is_picture_array(image: Any) -> bool:
    return isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3


def _called(thing: Any) -> str:
    if isinstance(thing, Tensor | np.ndarray):
        return f"a {thing.dtype} {type(thing).__name__} of shape {tuple(thing.shape)}"
    return f"a {type(thing).__name__}" + (f" of length {len(thing)}" if isinstance(thing, tuple) else "")
