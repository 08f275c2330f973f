"""Training objectives: the loss of a network on one batch, with optional hooks into the training loop."""

from slimcnn.objectives.cross_entropy import cross_entropy
from slimcnn.objectives.objective import (
    Feed,
    Loss,
    LossFunction,
    Objective,
    ReadScores,
    as_objective,
    class_scores,
    read_classes,
)
from slimcnn.objectives.sparsity import SparseScales, Spread, norms_with_scales, spread
from slimcnn.objectives.terms import InputOf, Seen, Teaching, Term, Terms, layer_named, record_into, watch

__all__ = [
    "Feed",
    "InputOf",
    "Loss",
    "LossFunction",
    "Objective",
    "ReadScores",
    "Seen",
    "SparseScales",
    "Spread",
    "Teaching",
    "Term",
    "Terms",
    "as_objective",
    "class_scores",
    "cross_entropy",
    "layer_named",
    "norms_with_scales",
    "read_classes",
    "record_into",
    "spread",
    "watch",
]
