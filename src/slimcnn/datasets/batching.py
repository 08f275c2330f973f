"""Batches of images: crop, flip, cutout and normalization, each on a whole batch at once."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from slimcnn.datasets.augmenting import Canvas, ImageTransforms, image_transforms
from slimcnn.datasets.examples import Examples, Places
from slimcnn.datasets.given import GivenBatches
from slimcnn.datasets.images import Augmentation, Normalization
from slimcnn.errors import DataError


def steps(images: Examples, size: int, *, world: int = 1) -> int:
    """Return the number of training batches per epoch, the same on every rank.

    The last, smaller batch counts if it has at least one image for every rank; otherwise it is dropped.

    >>> from slimcnn.datasets import Images
    >>> images = Images(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.zeros(10, dtype=torch.int64))
    >>> steps(images, 4), steps(images, 4, world=2), steps(images, 8, world=4)
    (3, 3, 1)
    """
    if isinstance(images, GivenBatches):
        return images.steps
    whole, rest = divmod(len(images), size)
    return whole + (rest >= world)


def batches(
    images: Examples,
    size: int,
    *,
    normalization: Normalization,
    augmentation: Augmentation | None = None,
    seed: int | None = None,
    epoch: int = 0,
    view: int | None = None,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
    memory_format: torch.memory_format | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches for a network: pairs of float32 `(m, c, h, w)` and int64 `(m,)` on `device`.

    With a `seed`, one training epoch: every image once. Order, crop, flip and cutout are drawn from `(seed, epoch)`.
    Batch number `step` is therefore a function of `(seed, epoch, step)` alone, and `start` skips the first batches at
    no cost: a run resumes in the middle of an epoch without stored state.
    `size` is the batch size over all processes. Rank `r` of `world` gets images `m r / world` to `m (r + 1) / world`
    of the batch's `m` images, bit for bit as in one process. `steps` returns the number of batches.

    With a `view`, crop, flip and cutout of an image are drawn from `(seed, view)` for that image, independent of the
    epoch and its order: the same view of an image is always the same pixels.

    Without a seed, for evaluation: all images in order, not augmented, the last batch smaller. A rank skips a batch
    that has no image for it.

    The batches of a user's loader come as they are (see `GivenBatches`).
    A stream leaves out broken images if it was asked to: a batch is then smaller.

    Images are padded with black before normalization; cutout fills with the mean color (zero after normalization).
    Further transforms (`Augmentation.others`) change each image before crop and flip, in the workers of a stream. Their
    random numbers are drawn from `(seed, epoch)`, or `(seed, view)`, for every image. Mixing is up to `fit`.

    Raises `DataError` for a batch that cannot be split into equal parts, an invalid rank or start, no images, or a
    number of channels other than that of `normalization`.

    >>> from slimcnn.datasets import Images
    >>> images = Images(torch.full((5, 3, 8, 8), 255, dtype=torch.uint8), torch.arange(5))
    >>> normal = Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    >>> [labels.tolist() for pixels, labels in batches(images, 2, normalization=normal)]
    [[0, 1], [2, 3], [4]]
    >>> [len(labels) for pixels, labels in batches(images, 2, normalization=normal, seed=0, start=1)]
    [2, 1]
    """
    layout = memory_format or torch.contiguous_format
    key = "" if seed is None else f"{seed}/{epoch}" if view is None else f"{seed}/view {view}"
    if isinstance(images, GivenBatches):
        return images.feed(torch.device(device), key=key, epoch=epoch, start=start, memory_format=layout)
    _check(images, size, seed, start, rank, world)
    scale, shift = (each.to(device).contiguous(memory_format=layout) for each in normalization.factors(images.shape))
    count = steps(images, size, world=world) if seed is not None else -(-len(images) // size)
    chosen = augmentation or Augmentation()
    draws = None if seed is None else _draw(images, chosen, seed, epoch, view)
    transforms = None if seed is None or not chosen.others else _transforms(images, chosen, normalization)

    def feed() -> Iterator[tuple[Tensor, Tensor]]:
        parts = [_part(images, size, step, rank, world) for step in range(start, count)]
        parts = [part for part in parts if part.start < part.stop]
        places = (part if draws is None else draws.order[part] for part in parts)
        for part, found in zip(parts, images.read(places, torch.device(device), key, transforms), strict=True):
            pixels = found.pixels.to(device, non_blocking=True)
            labels = found.labels.to(device, non_blocking=True)
            rows = part if found.kept is None else part.start + found.kept.to(device)
            if not len(labels):
                if seed is not None:
                    raise DataError(f"all {part.stop - part.start} images of a batch are broken: remove them")
                continue
            if draws is not None:
                labels = draws.targets_moved(labels, rows, pixels.shape)
                pixels = draws.moved(pixels, rows)
            x = pixels.to(torch.float32, memory_format=layout).mul_(scale).add_(shift)
            yield (x if draws is None else draws.holed(x, rows)), labels

    if draws is not None:
        draws = draws.on(images.device, torch.device(device))
    return feed()


def indices(
    images: Examples, size: int, *, seed: int, epoch: int = 0, start: int = 0, rank: int = 0, world: int = 1
) -> Iterator[Tensor]:
    """Yield the indices `(m,)` of the images in each batch that `batches` yields for the same arguments.

    >>> from slimcnn.datasets import Images
    >>> images = Images(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.tensor([7, 5, 3, 1, 9]))
    >>> normal = Normalization(mean=(0.5,), std=(0.5,))
    >>> feed = batches(images, 2, normalization=normal, seed=3, epoch=1)
    >>> which = indices(images, 2, seed=3, epoch=1)
    >>> all(torch.equal(images.labels[i], y) for i, (_, y) in zip(which, feed, strict=True))
    True
    """
    order = _order(images, seed, epoch)
    for step in range(start, steps(images, size, world=world)):
        part = _part(images, size, step, rank, world)
        if part.start < part.stop:
            yield order[part]


def _part(images: Examples, size: int, step: int, rank: int, world: int) -> slice:
    """Return the positions in the epoch of a rank's share of a batch."""
    first, m = step * size, min(size, len(images) - step * size)
    return slice(first + m * rank // world, first + m * (rank + 1) // world)


def _order(images: Examples, seed: int, epoch: int) -> Tensor:
    return torch.randperm(len(images), generator=_generator(seed, epoch, "order"))


class _Draws(NamedTuple):
    """All random draws of one epoch, by position in the epoch: `order` (n,), the others (n,) or None if not used."""

    order: Tensor
    crop: int
    cutout: int
    down: Tensor | None
    right: Tensor | None
    mirror: Tensor | None
    hole_y: Tensor | None
    hole_x: Tensor | None

    def on(self, images: torch.device, batch: torch.device) -> _Draws:
        """Move the order to the images' device and all else to the batches' device, once per epoch."""
        moved = [each if each is None else each.to(batch) for each in self[3:]]
        return _Draws(self.order.to(images), self.crop, self.cutout, *moved)

    def moved(self, pixels: Tensor, part: Places) -> Tensor:
        """Crop and flip in one gather: pixel (y, x) is read from the padded image at (y + down, x' + right)."""
        if self.down is None and self.mirror is None:
            return pixels
        n, channels, height, width = pixels.shape
        rows = torch.arange(height, device=pixels.device).expand(n, -1)
        columns = torch.arange(width, device=pixels.device).expand(n, -1)
        if self.mirror is not None:
            columns = torch.where(self.mirror[part, None], width - 1 - columns, columns)
        if self.down is not None and self.right is not None:
            rows, columns = rows + self.down[part, None], columns + self.right[part, None]
        padded = F.pad(pixels, (self.crop,) * 4)
        places = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
        return padded.flatten(2).gather(2, places.view(n, 1, -1).expand(-1, channels, -1)).view_as(pixels)

    def targets_moved(self, labels: Tensor, part: Places, shape: torch.Size) -> Tensor:
        """Move targets with their pixels: masks (m, h, w), where 255 is added at the border, and boxes (m, k, 5)."""
        if labels.dtype == torch.uint8 and labels.shape[1:] == shape[2:]:
            return self.moved(labels[:, None] + 1, part)[:, 0] - 1  # 255 + 1 is 0, with which `moved` pads
        if labels.ndim == 3 and labels.shape[2] == 5 and labels.is_floating_point():
            return self._boxes_moved(labels, part, *shape[2:])
        return labels

    def _boxes_moved(self, boxes: Tensor, part: Places, height: int, width: int) -> Tensor:
        """Shift and mirror boxes (class, x1, y1, x2, y2) in pixels; those that leave the image become class -1."""
        kind, x1, y1, x2, y2 = boxes.unbind(2)
        if self.down is not None and self.right is not None:
            right, down = (self.crop - each[part, None].to(boxes) for each in (self.right, self.down))
            x1, x2, y1, y2 = x1 + right, x2 + right, y1 + down, y2 + down
        if self.mirror is not None:
            flip = self.mirror[part, None]
            x1, x2 = torch.where(flip, width - x2, x1), torch.where(flip, width - x1, x2)
        x1, x2, y1, y2 = x1.clamp(0, width), x2.clamp(0, width), y1.clamp(0, height), y2.clamp(0, height)
        kind = torch.where((x2 - x1 > 1) & (y2 - y1 > 1), kind, -1.0)
        return torch.stack([kind, x1, y1, x2, y2], 2)

    def holed(self, x: Tensor, part: Places) -> Tensor:
        """Fill a square with zeros; at the border, part of it lies outside the image, as in the paper."""
        if self.hole_y is None or self.hole_x is None:
            return x
        rows = torch.arange(x.shape[2], device=x.device) - (self.hole_y[part, None] - self.cutout // 2)
        columns = torch.arange(x.shape[3], device=x.device) - (self.hole_x[part, None] - self.cutout // 2)
        inside_y, inside_x = ((each >= 0) & (each < self.cutout) for each in (rows, columns))
        return x.masked_fill_((inside_y[:, :, None] & inside_x[:, None, :])[:, None], 0.0)


def _draw(images: Examples, augmentation: Augmentation, seed: int, epoch: int, view: int | None) -> _Draws:
    n, (_, height, width) = len(images), images.shape
    order = _order(images, seed, epoch)

    def integers(what: str, high: int) -> Tensor:
        if view is None:
            return torch.randint(high, (n,), generator=_generator(seed, epoch, what))
        return torch.randint(high, (n,), generator=_generator(seed, view, f"view {what}"))[order]

    crop, cutout = augmentation.crop, augmentation.cutout
    return _Draws(
        order=order,
        crop=crop,
        cutout=cutout,
        down=integers("down", 2 * crop + 1) if crop else None,
        right=integers("right", 2 * crop + 1) if crop else None,
        mirror=integers("mirror", 2) == 1 if augmentation.flip else None,
        hole_y=integers("hole_y", height) if cutout else None,
        hole_x=integers("hole_x", width) if cutout else None,
    )


def _transforms(images: Examples, augmentation: Augmentation, normalization: Normalization) -> ImageTransforms | None:
    mean = tuple(round(255 * one) for one in normalization.mean)
    return image_transforms(augmentation.others, Canvas(images.shape[1:], mean))


def _generator(seed: int, epoch: int, what: str) -> torch.Generator:
    # One generator per quantity: turning off the flip does not change the crops.
    digest = sha256(f"{seed}/{epoch}/{what}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


def _check(images: Examples, size: int, seed: int | None, start: int, rank: int, world: int) -> None:
    if size < 1 or world < 1 or not 0 <= rank < world or start < 0:
        found = f"size {size}, rank {rank} of {world}, start {start}"
        raise DataError(
            f"no such batches: {found}; size and world are at least 1, rank and start at least 0, rank is below world"
        )
    if seed is not None and size % world:
        raise DataError(f"a batch of {size} cannot be split into {world} equal parts: choose a multiple of {world}")
    if len(images) < (1 if seed is None else world):
        raise DataError(f"{len(images)} images are too few for {world} process(es): each needs at least one image")
