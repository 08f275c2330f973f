"""Fashion-MNIST."""

from __future__ import annotations

from pathlib import Path

from slimcnn.datasets.decoding import idx
from slimcnn.datasets.downloads import FileLayout, PublishedDataset, load_published
from slimcnn.datasets.fetching import DebianPackage, Download
from slimcnn.datasets.images import Augmentation, Dataset, Normalization
from slimcnn.datasets.loading import datasets

ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
DEBIAN_FOLDER = "usr/share/datasets/fashion-mnist"
FASHION_MNIST = PublishedDataset(
    name="fashion_mnist",
    classes=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    shape=(1, 28, 28),
    train_each=6000,
    test_each=1000,
    validation=5000,
    fingerprint="cf4531ed97c7e6f64de7b072eabe124597299333ca84bd8e41fce9c3c65d1a0e",
    normalization=Normalization(mean=(0.2860,), std=(0.3530,)),
    augmentation=Augmentation(crop=2, flip=True),
    layouts=(
        FileLayout(
            train=("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
            test=("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
            decode=idx,
            folders=("", "FashionMNIST/raw", DEBIAN_FOLDER),
        ),
    ),
    # Debian recompressed the files; their unpacked content has the published MD5.
    origins=(
        Download(
            (
                (f"{ADDRESS}/train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
                (f"{ADDRESS}/train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
                (f"{ADDRESS}/t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
                (f"{ADDRESS}/t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
            )
        ),
        DebianPackage("dataset-fashion-mnist"),
    ),
    places=(f"/{DEBIAN_FOLDER}",),
)


@datasets.add(
    "fashion_mnist",
    source="H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, arXiv:1708.07747 (2017)",
    images=70_000,
    classes=10,
    shape=FASHION_MNIST.shape,
)
def fashion_mnist(*, source: Path | None, root: Path, seed: int) -> Dataset:
    """70,000 images of clothing, 28 x 28 gray."""
    return load_published(FASHION_MNIST, source=source, root=root, seed=seed)
