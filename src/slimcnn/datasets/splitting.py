"""Which images are held out: fixed by a seed, for ever."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import torch
from torch import Tensor

from slimcnn.errors import DataError


def split(
    labels: Tensor, count: int, key: str, *, names: Sequence[str] | None = None, leave: int = 1
) -> tuple[Tensor, Tensor]:
    """Split positions into those kept and those held out, each class by its share (stratified).

    `count` images are held out, the classes' shares rounded by largest remainder, and `leave` images of every class
    stay. Within a class those go whose SHA-256 of `key/name` is smallest (`names`: an image's position, unless given),
    so no version of a library, no device and no other use of random numbers can change a split. Both answers are int64
    and ascending. `DataError` if there are not so many images.

    >>> kept, held_out = split(torch.tensor([0, 1, 0, 1, 0, 1]), 2, "validation/0")
    >>> kept, held_out
    (tensor([1, 2, 3, 4]), tensor([0, 5]))
    """
    classes: list[int] = labels.tolist()
    left = _quotas(torch.bincount(labels.cpu()).tolist(), count, leave)
    draws = [
        sha256(f"{key}/{names[position] if names else position}".encode()).digest() for position in range(len(classes))
    ]
    kept: list[int] = []
    held_out: list[int] = []
    for position in sorted(range(len(classes)), key=draws.__getitem__):
        label = classes[position]
        (held_out if left[label] else kept).append(position)
        left[label] = max(left[label] - 1, 0)
    return torch.tensor(sorted(kept), dtype=torch.int64), torch.tensor(sorted(held_out), dtype=torch.int64)


def _quotas(sizes: list[int], count: int, leave: int) -> list[int]:
    total = sum(sizes)
    room = [max(size - leave, 0) for size in sizes]
    if not 0 < count <= sum(room):
        found = f"{total} images in {sum(size > 0 for size in sizes)} classes"
        raise DataError(f"cannot hold out {count} of {found} and leave {leave} a class: give more images")
    quotas = [min(count * size // total, limit) for size, limit in zip(sizes, room, strict=True)]
    while sum(quotas) < count:
        short = [count * size - quota * total for size, quota in zip(sizes, quotas, strict=True)]
        open_classes = [label for label, quota in enumerate(quotas) if quota < room[label]]
        quotas[max(open_classes, key=short.__getitem__)] += 1
    return quotas
