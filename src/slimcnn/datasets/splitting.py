"""Stratified splits that depend only on a seed."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import torch
from torch import Tensor

from slimcnn.errors import DataError


def split(
    labels: Tensor, count: int, key: str, *, names: Sequence[str] | None = None, leave: int = 1
) -> tuple[Tensor, Tensor]:
    """Split image positions into kept and held out, stratified by class.

    `count` images are held out; class shares are rounded by largest remainder, and at least `leave` images per class
    are kept. Within a class, the images with the smallest SHA-256 of `key/name` are held out (`names` defaults to the
    positions). The split therefore does not depend on library versions, devices or other uses of random numbers. Both
    results are int64 and ascending. `DataError` if there are too few images.

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
        raise DataError(f"cannot hold out {count} of {found} and keep {leave} per class: add images")
    quotas = [min(count * size // total, limit) for size, limit in zip(sizes, room, strict=True)]
    while sum(quotas) < count:
        short = [count * size - quota * total for size, quota in zip(sizes, quotas, strict=True)]
        open_classes = [label for label, quota in enumerate(quotas) if quota < room[label]]
        quotas[max(open_classes, key=short.__getitem__)] += 1
    return quotas
