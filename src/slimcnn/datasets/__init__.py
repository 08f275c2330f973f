"""Datasets as tensors in memory: loading, splitting and batching."""

from slimcnn.datasets.batching import batches, indices, steps
from slimcnn.datasets.images import Augmentation, Dataset, Images, Normalization
from slimcnn.datasets.loading import datasets, load_dataset

__all__ = [
    "Augmentation",
    "Dataset",
    "Images",
    "Normalization",
    "batches",
    "datasets",
    "indices",
    "load_dataset",
    "steps",
]
