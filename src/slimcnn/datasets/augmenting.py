"""Augmentations by name, as in `flip + randaugment:magnitude=9`, and the transforms of single images."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

from slimcnn.datasets.seeding import seeded
from slimcnn.errors import RecipeError
from slimcnn.registry import Registry

if TYPE_CHECKING:
    from torch import nn

DEFAULT, NONE = "default", "none"
"""Words that stand for the augmentation of the dataset, and for none."""


@dataclass(frozen=True)
class Canvas:
    """What a transform of single images has to know: how large images are, and which color stands for nothing."""

    size: tuple[int, int]
    """Height and width of the images that come out."""
    mean: tuple[int, ...]
    """The mean color, one value of 0 to 255 per channel: zero after normalization."""


@dataclass(frozen=True)
class OnWholeBatch:
    """Crop, flip and cutout: fields of `Augmentation`, applied to a whole batch at once."""

    name: Literal["crop", "flip", "cutout"]
    value: int = 1


@dataclass(frozen=True)
class OnEachImage:
    """A transform of torchvision.transforms.v2, applied to the uint8 pixels of each image."""

    make: Callable[[Canvas], nn.Module]
    targets: bool = True
    """Whether masks and boxes still fit afterwards: they are moved too, or no pixel moves."""
    first: bool = False
    """Whether it takes the picture as it was decoded, of any size, and gives one of the canvas's size."""


@dataclass(frozen=True)
class OnPairs:
    """Mixes every image with another one of its batch: mixup, cutmix."""

    alpha: float
    """Shares are drawn from Beta(alpha, alpha)."""
    mix: Callable[[Tensor, Tensor, float, float, float], tuple[Tensor, float]]
    """(images, other images, share of the first, two numbers of 0 to 1) → the mixed images, and their true share."""


Augmenting: TypeAlias = OnWholeBatch | OnEachImage | OnPairs

augmentations: Registry[Callable[..., Augmenting]] = Registry("augmentation", home="slimcnn.datasets.transforms")
"""All augmentations: functions of their options."""


def parts_of(spec: str) -> list[tuple[str, Augmenting | None]]:
    """Parse augmentations with their options; None stands for the word `default`.

    Raises:
        UnknownName: there is no such augmentation.
        RecipeError: an invalid option, a value out of range, or a name given twice.

    >>> [(name, one.value) for name, one in parts_of("crop:pixels=4 + flip")]
    [('crop', 4), ('flip', 1)]
    >>> parts_of("crop:size=4")
    Traceback (most recent call last):
    slimcnn.errors.RecipeError: augmentation 'crop:size=4': no option 'size'; its options are pixels
    """
    if spec.strip() in ("", NONE):
        return []
    found: list[tuple[str, Augmenting | None]] = []
    for text in re.split(r"\s*\+\s*", spec.strip()):
        name = text.partition(":")[0]
        if name in [one for one, _ in found]:
            raise RecipeError(f"augmentation {spec!r} names {name} twice: leave one out")
        if name == NONE:
            raise RecipeError(f"augmentation {spec!r}: none stands alone: leave it out, or the others")
        if text == DEFAULT:
            found.append((text, None))
            continue
        build, options = augmentations.split(text, RecipeError)
        found.append((name, build(**options)))
    return found


def in_range(what: str, value: float, low: float, high: float) -> None:
    """Raise `RecipeError` unless a value is within its range, the ends included.

    >>> in_range("random_erasing: probability", 1.5, 0, 1)
    Traceback (most recent call last):
    slimcnn.errors.RecipeError: random_erasing: probability=1.5 is out of range: give a value of 0 to 1
    """
    if not low <= value <= high:
        raise RecipeError(f"{what}={value:g} is out of range: give a value of {low:g} to {high:g}")


def whole(what: str, value: float, low: int, high: int) -> int:
    """Return a whole number within its range; `RecipeError` if it is another value.

    >>> whole("randaugment: magnitude", 9, 0, 30)
    9
    """
    in_range(what, value, low, high)
    if value != int(value):
        raise RecipeError(f"{what}={value:g}: expected a whole number")
    return int(value)


@dataclass(frozen=True)
class ImageTransforms:
    """Transforms of single images, in order; random numbers depend on the image and the key alone, not on who decodes.

    >>> from torchvision.transforms import v2
    >>> flip = ImageTransforms((v2.RandomHorizontalFlip(p=1.0),))
    >>> flip(torch.tensor([[[1, 2]]], dtype=torch.uint8), "seed 0/image 3")[0]
    tensor([[[2, 1]]], dtype=torch.uint8)
    """

    transforms: tuple[nn.Module, ...]
    from_picture: bool = False
    """Whether the first one takes a picture as it was decoded, of any size."""
    size: tuple[int, int] | None = field(default=None)

    def __call__(self, pixels: Tensor, key: str, target: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Transform pixels (c, h, w), uint8, and the mask (h, w) or the boxes (k, 5) of the image with them."""
        with seeded(f"augmentation/{key}"):
            if target is None or _kind(target, pixels) == "label":
                for transform in self.transforms:
                    pixels = transform(pixels)
                return pixels, target
            return self._with_target(pixels, target)

    def of_batch(self, pixels: Tensor, targets: Tensor, key: str, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Transform a batch of images, given by their numbers in the dataset, with their targets, on the CPU."""
        moved = targets.ndim > 1
        home = targets.device
        pixels, targets = pixels.cpu(), targets.cpu()
        found = [
            self(one, f"{key}/{number}", targets[place] if moved else None)
            for place, (one, number) in enumerate(zip(pixels, numbers, strict=True))
        ]
        together = torch.stack([one for one, _ in found])
        return together, (torch.stack([y for _, y in found if y is not None]) if moved else targets).to(home)

    def _with_target(self, pixels: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        from torchvision import tv_tensors

        masked, size = _kind(target, pixels) == "mask", pixels.shape[-2:]
        one: Any = tv_tensors.Image(pixels)
        other: Any = (
            tv_tensors.Mask(target[None])
            if masked
            else tv_tensors.BoundingBoxes(target[:, 1:], format="XYXY", canvas_size=tuple(size))
        )
        for transform in self.transforms:
            one, other = transform(one, other)
        moved = other.as_subclass(Tensor)
        if masked:
            return one.as_subclass(Tensor), moved[0]
        # A box that has left the image, or has less than a pixel, counts no more (see `_boxes_moved`).
        seen = ((moved[:, 2:] - moved[:, :2]) > 1).all(1) & (target[:, 0] >= 0)
        kinds = torch.where(seen, target[:, 0], -1.0)
        return one.as_subclass(Tensor), torch.cat([kinds[:, None], moved], 1)


def _kind(target: Tensor, pixels: Tensor) -> Literal["mask", "boxes", "label"]:
    """Tell what the target of one image is, by the rules of `_Draws.targets_moved`."""
    if target.dtype == torch.uint8 and target.shape == pixels.shape[-2:]:
        return "mask"
    return "boxes" if target.ndim == 2 and target.shape[1] == 5 and target.is_floating_point() else "label"


def refuse_other_channels(name: str, canvas: Canvas) -> None:
    """Raise `RecipeError` unless images are gray or have colors: some operations are defined for these only.

    >>> refuse_other_channels("randaugment", Canvas((8, 8), mean=(0, 0)))
    Traceback (most recent call last):
    slimcnn.errors.RecipeError: randaugment works on images of 1 or 3 channels, and these have 2: leave it out
    """
    if len(canvas.mean) not in (1, 3):
        raise RecipeError(f"{name} works on images of 1 or 3 channels, and these have {len(canvas.mean)}: leave it out")


def image_transforms(spec: str, canvas: Canvas) -> ImageTransforms | None:
    """Return the transforms of single images that augmentations name; None if there are none."""
    found = [one for _, one in parts_of(spec) if isinstance(one, OnEachImage)]
    if not found:
        return None
    found.sort(key=lambda one: not one.first)  # what takes the decoded picture comes first, the rest in the given order
    return ImageTransforms(tuple(one.make(canvas) for one in found), found[0].first, canvas.size)


def mixing(spec: str) -> tuple[OnPairs, ...]:
    """Return the augmentations that mix pairs of images; of several, each batch takes one at random."""
    return tuple(one for _, one in parts_of(spec) if isinstance(one, OnPairs))


def refuse_for_task(spec: str, task: str, *, moves: bool) -> None:
    """Raise `RecipeError` if augmentations do not work for a task; `moves`: its targets are masks or boxes.

    >>> refuse_for_task("mixup", "detection", moves=True)
    Traceback (most recent call last):
    slimcnn.errors.RecipeError: mixup mixes the classes of images, and the data is for detection: leave it out
    """
    for name, one in parts_of(spec):
        if isinstance(one, OnPairs) and task != "classification":
            raise RecipeError(f"{name} mixes the classes of images, and the data is for {task}: leave it out")
        if isinstance(one, OnEachImage) and moves and not one.targets:
            raise RecipeError(
                f"{name} of torchvision moves pixels, but not their masks and boxes, and the data is for {task}: use "
                "random_resized_crop, color_jitter or random_erasing"
            )
