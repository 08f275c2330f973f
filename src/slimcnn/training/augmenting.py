"""The augmentation of a training: that of its settings, or of its dataset."""

from __future__ import annotations

from dataclasses import replace

from slimcnn.datasets import AnyLoader, Augmentation, Dataset
from slimcnn.datasets.augmenting import NONE, mixing, refuse_for_task
from slimcnn.errors import RecipeError
from slimcnn.training.settings import Training


def augmentation_of(training: Training, dataset: Dataset) -> Augmentation:
    """Return the augmentation that the settings name; by default that of the dataset.

    >>> from slimcnn.datasets import load_dataset
    >>> augmentation_of(Training(augmentation="default + color_jitter"), load_dataset("digits"))
    Augmentation(crop=1, flip=False, cutout=0, others='color_jitter')
    """
    if training.augmentation is None:
        return dataset.augmentation
    return Augmentation.named(training.augmentation, dataset.augmentation)


def augmented(training: Training, dataset: Dataset) -> Dataset:
    """Return the dataset with the augmentation of a training."""
    return replace(dataset, augmentation=augmentation_of(training, dataset))


def check_augmentation(training: Training, data: Dataset | AnyLoader) -> None:
    """Raise `RecipeError` if the data, or another setting, does not allow the augmentation of a training."""
    if isinstance(data, Dataset):
        chosen = augmentation_of(training, data)
        refuse_for_task(chosen.others, data.task, moves=data.train.labels.ndim == 3)
    else:
        chosen = Augmentation.named(training.augmentation or NONE)
        if chosen.of_images != Augmentation():
            raise RecipeError(
                f"augmentation={training.augmentation!r}: a loader gives images that are ready for a network: augment "
                "them in its dataset; only mixup and cutmix work here"
            )
    if training.views and mixing(chosen.others):
        raise RecipeError("mixup and cutmix cannot be combined with cached views: leave out either")
