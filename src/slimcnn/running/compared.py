"""Find the features in which a network can be compared with the reference."""

from __future__ import annotations

from torch import nn

from slimcnn.datasets import batches
from slimcnn.distillation import LastFeatures, last_features
from slimcnn.running.step import State

FEW = 64
"""Images on which the features' variance is measured."""
CLIP = 10.0
"""Largest norm of a gradient: the error of features has no bound, as that of answers has."""
NOT_COMPARED = "the features before the last layer cannot be compared with the reference's"


def compared_features(student: nn.Module, state: State) -> LastFeatures | None:
    """Find the features that the last layer reads; None if the network's channels are not the reference's."""
    if state.kept is None:
        return None
    device = next(student.parameters()).device
    few = state.data.train.limit(FEW, seed=0, by_class=False).in_memory()
    x, _ = next(batches(few, FEW, normalization=state.data.normalization, device=device))
    return last_features(student, state.reference, x, state.kept)


def in_words(where: LastFeatures) -> str:
    """Say where the features are.

    >>> in_words(LastFeatures("layer3", rectified=False, kept=None, variance=1.0))
    'the output of layer3'
    """
    return f"the output of {where.at}" if isinstance(where.at, str) else f"the input of {where.at.layer}"
