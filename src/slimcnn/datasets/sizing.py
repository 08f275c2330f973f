"""Resize datasets and check that they fit into memory."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from slimcnn.datasets.examples import Examples
from slimcnn.datasets.images import Dataset, Images
from slimcnn.datasets.progress import progress
from slimcnn.datasets.scaling import ImageSize, sides
from slimcnn.errors import DataError


def resized(dataset: Dataset, image_size: ImageSize) -> Dataset:
    """Scale all images to one size (bilinear, antialiased), and crop and cutout by the same factor.

    >>> from slimcnn.datasets import load_dataset
    >>> resized(load_dataset("digits"), 32).augmentation
    Augmentation(crop=4, flip=False, cutout=0, others='')
    """
    size = sides(image_size)
    if dataset.shape[1:] == size:
        return dataset
    parts = (dataset.train, dataset.validation, dataset.test)
    require_memory(sum(map(len, parts)), (dataset.shape[0], *size))
    train, validation, test = (_scaled(images, size) for images in parts)
    factor = min(size) / min(dataset.shape[1:])
    usual = dataset.augmentation
    scaled = replace(usual, crop=round(usual.crop * factor), cutout=round(usual.cutout * factor))
    return replace(dataset, train=train, validation=validation, test=test, augmentation=scaled)


def _scaled(source: Examples, size: tuple[int, int]) -> Images:
    images = source.in_memory()
    pixels = torch.empty(len(images), images.shape[0], *size, dtype=torch.uint8)
    with progress(f"scaling images to {size[0]} x {size[1]}", total=len(images)) as advance:
        for old, new in zip(images.pixels.split(256), pixels.split(256), strict=True):
            new.copy_(F.interpolate(old, size, mode="bilinear", antialias=True))
            advance(len(new))
    return Images(pixels, _scaled_targets(images, size))


def _scaled_targets(images: Images, size: tuple[int, int]) -> Tensor:
    """Scale masks (n, h, w) by nearest neighbor, and boxes (n, k, 5) with their images; other labels stay."""
    labels, (height, width) = images.labels, images.shape[1:]
    if labels.shape[1:] == (height, width) and labels.dtype == torch.uint8:
        return F.interpolate(labels[:, None], size, mode="nearest-exact")[:, 0]
    if labels.ndim == 3 and labels.shape[2] == 5 and labels.is_floating_point():
        down, across = size[0] / height, size[1] / width
        return labels * labels.new_tensor([1.0, across, down, across, down])
    return labels


def require_memory(n: int, shape: tuple[int, int, int]) -> None:
    """Raise `DataError` if `n` images of this shape exceed this machine's memory.

    >>> require_memory(10**12, (3, 224, 224))
    Traceback (most recent call last):
    slimcnn.errors.DataError: 1000000000000 images of (3, 224, 224) need 150528000.0 GB but this machine has ...
    """
    if not hasattr(os, "sysconf"):
        return
    needed, there = n * shape[0] * shape[1] * shape[2], os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        found = f"{n} images of {shape} need {needed / 1e9:.1f} GB but this machine has {there / 1e9:.1f} GB"
        raise DataError(f"{found}: choose a smaller image_size or fewer images")


def free_memory() -> int | None:
    """Return the bytes that this process can still use, of the machine or of its container; None if unknown.

    >>> found = free_memory()
    >>> found is None or found > 0
    True
    """
    free = [size for size in (_available(), _left_in_container()) if size is not None]
    return min(free, default=None)


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def _left_in_container(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return what the control group of a container leaves; None without a limit."""
    try:
        most = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        # Pages of files count as used, but are given up when memory is needed.
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        files = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        return None if most == "max" else max(int(most) - used + files, 1)
    except (OSError, StopIteration, ValueError):
        return None
