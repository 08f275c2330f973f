"""CIFAR-100, with its 100 fine classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from slimcnn.datasets.decoding import records, sheets
from slimcnn.datasets.downloads import FileLayout, PublishedDataset, load_published
from slimcnn.datasets.fetching import Download
from slimcnn.datasets.images import Augmentation, Dataset, Normalization
from slimcnn.datasets.loading import datasets

BINARY = FileLayout(
    archive="cifar-100-binary.tar.gz",
    folders=("", "cifar-100-binary"),
    train=("train.bin",),
    test=("test.bin",),
    decode=partial(records, label_bytes=2),
)
SHEETS = FileLayout(
    train=(*(f"train_{number}.png" for number in range(1, 6)), "train_labels.json"),
    test=("test.png", "test_labels.json"),
    decode=sheets,
)
CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CIFAR100 = PublishedDataset(
    name="cifar100",
    classes=tuple(CLASSES.split()),
    shape=(3, 32, 32),
    train_each=500,
    test_each=100,
    validation=5000,
    # From a lossless copy whose pixel sums match the published channel means to all twenty digits.
    fingerprint="e23b7316ee9d988fdb28e50c09807048ad2625970b6693facda90d3f0e6f5e02",
    normalization=Normalization(mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)),
    augmentation=Augmentation(crop=4, flip=True),
    layouts=(BINARY, SHEETS),
    origins=(
        Download((("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),)),
    ),
)


@datasets.add(
    "cifar100",
    source="A. Krizhevsky, Learning multiple layers of features from tiny images (2009)",
    images=60_000,
    classes=100,
    shape=CIFAR100.shape,
)
def cifar100(*, source: Path | None, root: Path, seed: int) -> Dataset:
    """60,000 color photos of 100 kinds of objects, 32 x 32."""
    return load_published(CIFAR100, source=source, root=root, seed=seed)
