"""Datasets in memory and as streams: loading, splitting and batching."""

from slimcnn.datasets.augmenting import augmentations
from slimcnn.datasets.batching import batches, indices, steps
from slimcnn.datasets.examples import Examples
from slimcnn.datasets.given import AnyLoader, examples_of, given_dataset
from slimcnn.datasets.images import Augmentation, Dataset, Images, Normalization
from slimcnn.datasets.loading import datasets, image_sources, load_dataset
from slimcnn.datasets.streams import Pictures, Stream

__all__ = [
    "AnyLoader",
    "Augmentation",
    "Dataset",
    "Examples",
    "Images",
    "Normalization",
    "Pictures",
    "Stream",
    "augmentations",
    "batches",
    "datasets",
    "examples_of",
    "given_dataset",
    "image_sources",
    "indices",
    "load_dataset",
    "steps",
]
