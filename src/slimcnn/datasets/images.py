"""Images in memory, normalization, augmentation and datasets as values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from slimcnn.datasets.augmenting import ImageTransforms, OnEachImage, OnPairs, OnWholeBatch, parts_of
from slimcnn.datasets.examples import Examples, Places, ReadBatch
from slimcnn.datasets.scaling import AS_LARGE, Scaling
from slimcnn.datasets.splitting import split
from slimcnn.errors import DataError


@dataclass(frozen=True, eq=False)
class Images:
    """Pixels `(n, c, h, w)` in uint8 and labels `(n,)` in int64; anything else raises `DataError`.

    For other tasks than classification, `labels` are its targets: any tensor with one entry for each image, such as
    masks `(n, h, w)` in uint8, or boxes `(n, k, 5)`.

    >>> images = Images(torch.zeros(10, 3, 32, 32, dtype=torch.uint8), torch.arange(10))
    >>> len(images), images.shape
    (10, (3, 32, 32))
    """

    pixels: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        pixels, labels = self.pixels, self.labels
        if pixels.dtype != torch.uint8 or pixels.ndim != 4:
            found = f"{pixels.dtype} of shape {tuple(pixels.shape)}"
            raise DataError(f"pixels must be torch.uint8 of shape (n, c, h, w), found {found}: convert them first")
        if labels.shape[:1] != pixels.shape[:1] or (labels.ndim == 1 and labels.dtype != torch.int64):
            found = f"{labels.dtype} of shape {tuple(labels.shape)}"
            raise DataError(f"labels must be torch.int64 of shape ({len(pixels)},), one per image; found {found}")

    def __repr__(self) -> str:
        return f"Images({len(self):,} of {' x '.join(map(str, self.shape))} pixels, on {self.pixels.device})"

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Where pixels and labels are."""
        return self.pixels.device

    @property
    def nbytes(self) -> int:
        """Bytes of pixels in memory."""
        return self.pixels.nbytes

    def to(self, device: torch.device | str) -> Images:
        """Return the same images on another device (all of CIFAR takes 0.2 GB)."""
        return Images(self.pixels.to(device), self.labels.to(device))

    def take(self, positions: Tensor) -> Images:
        """Return the images at these positions, in this order."""
        positions = positions.to(self.pixels.device)
        return Images(self.pixels[positions], self.labels[positions])

    def limit(self, n: int, *, seed: int = 0, by_class: bool = True) -> Images:
        """Return at most `n` images, the same for the same seed: stratified by class, or without a look at labels.

        >>> images = Images(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.arange(10) % 2)
        >>> images.limit(4).labels.bincount()
        tensor([2, 2])
        """
        chosen = chosen_by_limit(self.labels, n, seed, by_class)
        return self if chosen is None else self.take(chosen)

    def read(
        self, places: Iterable[Places], device: torch.device, key: str = "", transforms: ImageTransforms | None = None
    ) -> Iterator[ReadBatch]:
        """Yield the images of every batch (see `Examples`)."""
        for place in places:
            pixels, labels = self.pixels[place], self.labels[place]
            if transforms is not None:
                numbers = torch.arange(len(self))[place] if isinstance(place, slice) else place
                pixels, labels = transforms.of_batch(pixels, labels, key, numbers.tolist())
            yield ReadBatch(pixels, labels)

    def in_memory(self) -> Images:
        """Return the images themselves."""
        return self


def chosen_by_limit(labels: Tensor, n: int, seed: int = 0, by_class: bool = True) -> Tensor | None:
    """Return the positions of the images that `Images.limit` leaves; None if it leaves all.

    >>> chosen_by_limit(torch.tensor([0, 0, 1, 1]), 2), chosen_by_limit(torch.tensor([0, 1]), 5)
    (tensor([0, 2]), None)
    """
    if n < 1:
        raise DataError(f"cannot limit {len(labels)} images to {n}: at least one is needed")
    if labels.ndim > 1 or not by_class:  # no classes to draw evenly from
        labels = torch.zeros(len(labels), dtype=torch.int64)
    return None if n >= len(labels) else split(labels, n, f"limit/{seed}", leave=0)[1]


@dataclass(frozen=True)
class Normalization:
    """Per-channel normalization `x = (pixels / 255 - mean) / std`; `mean` and `std` are in units of white (255).

    >>> Normalization(mean=(0.5,), std=(0.25,))(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    tensor([[[[-2.,  2.]]]])
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise DataError(f"a normalization needs one mean and std per channel, found {self.mean} and {self.std}")
        if min(self.std) <= 0:
            raise DataError(f"standard deviations must be above 0, found {self.std}")

    @classmethod
    def none(cls, channels: int) -> Normalization:
        """Return the normalization that changes nothing, for tensors that are ready for a network.

        >>> Normalization.none(1)(torch.tensor([[[[-1.5, 2.0]]]]))
        tensor([[[[-1.5000,  2.0000]]]])
        """
        return cls((0.0,) * channels, (1 / 255,) * channels)

    @classmethod
    def measured(cls, pixels: Tensor) -> Normalization:
        """Compute the exact mean and standard deviation of uint8 pixels `(n, c, h, w)` from their histograms.

        >>> Normalization.measured(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
        Normalization(mean=(0.5,), std=(0.5,))
        """
        counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in pixels.unbind(1)])
        weights = counts.double() / counts.sum(1, keepdim=True)
        levels = torch.arange(256, device=pixels.device).double() / 255
        mean = weights @ levels
        std = (weights @ levels.square() - mean.square()).clamp(min=0).sqrt()
        # A constant channel has std 0: use one gray level, 1/255, instead.
        return cls(tuple(mean.tolist()), tuple(std.clamp(min=1 / 255).tolist()))

    def factors(self, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Return `scale` and `shift`, each `(1, c, h, w)` in float32, so that `x = pixels * scale + shift`."""
        if len(self.mean) != shape[0]:
            raise DataError(f"the normalization has {len(self.mean)} channels, the images have {shape[0]}: match them")
        mean, std = (torch.tensor(each, dtype=torch.float64).view(1, -1, 1, 1) for each in (self.mean, self.std))
        scale, shift = 1 / (255 * std), -mean / std
        return scale.float().expand(1, *shape).contiguous(), shift.float().expand(1, *shape).contiguous()

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return `x` in float32, on the device of the pixels."""
        channels, height, width = pixels.shape[1:]
        scale, shift = (each.to(pixels.device) for each in self.factors((channels, height, width)))
        return pixels.float().mul_(scale).add_(shift)


@dataclass(frozen=True)
class Augmentation:
    """Random augmentation of training images; all off by default.

    crop:   pad with `crop` black pixels on all sides, then crop to the original size at a random position.
    flip:   flip horizontally with probability 1/2.
    cutout: fill a square of this side in pixels, its center anywhere in the image, with the mean color
            (DeVries and Taylor, "Improved regularization of convolutional neural networks with cutout", 2017).
    others: further ones by name (`slimcnn list augmentations`), joined by +. Transforms of single images come before
            crop and flip, in the given order; mixup and cutmix come last.

    >>> Augmentation(crop=4, flip=True)
    Augmentation(crop=4, flip=True, cutout=0, others='')
    >>> Augmentation(others="randaugment:magnitude=9 + random_erasing").others
    'randaugment:magnitude=9 + random_erasing'
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0
    others: str = ""

    def __post_init__(self) -> None:
        if self.crop < 0 or self.cutout < 0:
            raise DataError(f"crop and cutout are in pixels and cannot be negative: {self}")
        for name, one in parts_of(self.others):
            if not isinstance(one, OnEachImage | OnPairs):
                raise DataError(f"others={self.others!r}: {name} is an argument of its own, as in Augmentation(crop=4)")

    @property
    def of_images(self) -> Augmentation:
        """The same without mixup and cutmix, which change no image by itself.

        >>> Augmentation(crop=2, others="mixup + color_jitter").of_images
        Augmentation(crop=2, flip=False, cutout=0, others='color_jitter')
        """
        texts = re.split(r"\s*\+\s*", self.others)
        pairs = zip(texts, parts_of(self.others), strict=False)
        return replace(self, others=" + ".join(text for text, (_, one) in pairs if isinstance(one, OnEachImage)))

    @classmethod
    def named(cls, spec: str, usual: Augmentation | None = None) -> Augmentation:
        """Return the augmentations that a text names; `default` stands for the usual ones, `none` for none at all.

        Raises:
            UnknownName: there is no such augmentation; RecipeError: an invalid option, or a value out of range.

        >>> Augmentation.named("default + randaugment", Augmentation(crop=4, flip=True))
        Augmentation(crop=4, flip=True, cutout=0, others='randaugment')
        >>> Augmentation.named("crop:pixels=2 + cutout:size=8")
        Augmentation(crop=2, flip=False, cutout=8, others='')
        """
        parts = parts_of(spec)
        texts = re.split(r"\s*\+\s*", spec.strip())
        start = (usual or cls()) if "default" in [name for name, _ in parts] else cls()
        batch = {one.name: one.value for _, one in parts if isinstance(one, OnWholeBatch)}
        others = [start.others] if start.others else []
        others += [text for text, (_, one) in zip(texts, parts, strict=False) if isinstance(one, OnEachImage | OnPairs)]
        return cls(
            crop=batch.get("crop", start.crop),
            flip=bool(batch.get("flip", start.flip)),
            cutout=batch.get("cutout", start.cutout),
            others=" + ".join(others),
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training, validation and test images, with the dataset's default normalization and augmentation.

    The images are in memory (`Images`) or decoded while they are read (`Stream`); both fulfill `Examples`.
    """

    name: str
    classes: tuple[str, ...]
    train: Examples
    validation: Examples
    test: Examples
    normalization: Normalization
    augmentation: Augmentation
    broken: dict[str, str] = field(default_factory=dict)
    """The images that were left out so far because they are broken, with the reason: grows while a stream is read."""
    task: str = "classification"
    """What the labels are for: the name of a task, or `package.module:Task`."""
    scaling: Scaling = AS_LARGE
    """How pictures were scaled to images."""

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            images: Examples = getattr(self, part)
            if not len(images):
                raise DataError(f"dataset {self.name}: no {part} images")
            if images.shape != self.shape:
                raise DataError(f"dataset {self.name}: {part} images are {images.shape}, train images {self.shape}")
            if self.task != "classification":
                continue
            if len(images.labels) and images.labels.ndim != 1:
                raise DataError(
                    f"dataset {self.name}: {part} labels have shape {tuple(images.labels.shape)}; classification needs "
                    "one class for an image: name the task"
                )
            known = images.labels if len(images.labels) else torch.zeros(1, dtype=torch.int64)
            low, high = int(known.min()), int(known.max())
            if low < 0 or high >= len(self.classes):
                labels = f"labels {low} to {high}"
                raise DataError(
                    f"dataset {self.name}: {part} images have {labels}, but there are {len(self.classes)} classes"
                )

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(getattr(self, part)):,} {part}" for part in ("train", "validation", "test"))
        size = " x ".join(map(str, self.shape))
        return f"Dataset({self.name!r}: {len(self.classes)} classes, {counts} images of {size} pixels)"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        return self.train.shape

    @property
    def streamed(self) -> bool:
        """Whether the images are decoded while they are read."""
        return not self.train.nbytes

    @property
    def ready(self) -> bool:
        """Whether images are tensors that the user has normalized already; their pixels are then unknown."""
        return self.normalization == Normalization.none(self.shape[0])

    def to(self, device: torch.device | str) -> Dataset:
        """Return the same dataset with all images on another device."""
        parts = {part: getattr(self, part).to(device) for part in ("train", "validation", "test")}
        return replace(self, **parts)

    def limit(self, n: int, *, seed: int = 0) -> Dataset:
        """Return the dataset with at most `n` images per part, for quick tests (see `Images.limit`)."""
        parts = {part: getattr(self, part).limit(n, seed=seed) for part in ("train", "validation", "test")}
        return replace(self, **parts)
