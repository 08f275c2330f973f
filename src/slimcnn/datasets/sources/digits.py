"""Handwritten digits shipped with scikit-learn: a small real dataset for quick tests."""

from __future__ import annotations

from pathlib import Path

import torch

from slimcnn.datasets.images import Augmentation, Dataset, Images, Normalization
from slimcnn.datasets.loading import datasets
from slimcnn.datasets.splitting import split
from slimcnn.errors import DataError

TEST, VALIDATION = 360, 180


@datasets.add(
    "digits",
    source="E. Alpaydin and C. Kaynak, Optical recognition of handwritten digits (UCI, 1998), as in scikit-learn",
    images=1797,
    classes=10,
    shape=(1, 8, 8),
)
def digits(*, source: Path | None, root: Path, seed: int) -> Dataset:
    """1,797 scans of handwritten digits, 8 x 8 gray.

    Gray levels 0 to 16 are scaled to 0 to 255. Test and validation images are stratified; mean and standard
    deviation are those of all images.
    """
    if source is not None:
        raise DataError(f"digits ships with scikit-learn and cannot be read from {source}: use digits without a path")
    from sklearn.datasets import load_digits

    scans = load_digits()
    pixels = torch.from_numpy(scans.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    everything = Images(pixels, torch.from_numpy(scans.target).long())
    kept, test = split(everything.labels, TEST, "test")
    rest = everything.take(kept)
    train, validation = split(rest.labels, VALIDATION, f"validation/{seed}")
    return Dataset(
        name="digits",
        classes=tuple("0123456789"),
        train=rest.take(train),
        validation=rest.take(validation),
        test=everything.take(test),
        normalization=Normalization(mean=(0.3053,), std=(0.3760,)),
        augmentation=Augmentation(crop=1),
    )
