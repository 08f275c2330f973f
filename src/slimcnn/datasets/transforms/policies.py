"""Policies that choose operations at random: RandAugment and TrivialAugment."""

from __future__ import annotations

from torch import nn

from slimcnn.datasets.augmenting import Canvas, OnEachImage, augmentations, refuse_other_channels, whole


@augmentations.add("randaugment", source="Cubuk et al. 2019, arXiv 1909.13719")
def randaugment(operations: int = 2, magnitude: int = 9, bins: int = 31) -> OnEachImage:
    """Apply `operations` of 14 operations, chosen at random, with `magnitude` of 0 to `bins` - 1."""
    number = whole("randaugment: operations", operations, 1, 14)
    most = whole("randaugment: bins", bins, 2, 1000)
    strength = whole("randaugment: magnitude", magnitude, 0, most - 1)

    def make(canvas: Canvas) -> nn.Module:
        from torchvision.transforms import v2

        refuse_other_channels("randaugment", canvas)
        found: nn.Module = v2.RandAugment(number, strength, most)
        return found

    return OnEachImage(make, targets=False)


@augmentations.add("trivial_augment", source="Müller, Hutter 2021, arXiv 2103.10158")
def trivial_augment(bins: int = 31) -> OnEachImage:
    """Apply one of 14 operations, chosen at random, with a random magnitude."""
    most = whole("trivial_augment: bins", bins, 2, 1000)

    def make(canvas: Canvas) -> nn.Module:
        from torchvision.transforms import v2

        refuse_other_channels("trivial_augment", canvas)
        found: nn.Module = v2.TrivialAugmentWide(most)
        return found

    return OnEachImage(make, targets=False)
