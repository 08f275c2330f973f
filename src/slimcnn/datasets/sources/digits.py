"""Handwritten digits in a file of 60 kB: a small real dataset for quick tests; digits.txt has source and license."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from slimcnn.datasets.images import Augmentation, Dataset, Images, Normalization
from slimcnn.datasets.loading import datasets
from slimcnn.datasets.splitting import split
from slimcnn.errors import DataError

TEST, VALIDATION = 360, 180
SCANS = Path(__file__).with_suffix(".npz")


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
        raise DataError(f"digits ships with slimcnn and cannot be read from {source}: use digits without a path")
    with np.load(SCANS) as scans:
        levels, labels = torch.from_numpy(scans["pixels"]), torch.from_numpy(scans["labels"])
    everything = Images(levels.double().mul(255 / 16).round().to(torch.uint8)[:, None], labels.long())
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
