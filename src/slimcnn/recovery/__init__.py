"""Recover accuracy without training."""

from slimcnn.recovery.batch_norm import recalibrate
from slimcnn.recovery.constants import FoldedConstants, fold_constants
from slimcnn.recovery.least_squares import least_squares
from slimcnn.recovery.refit import Recovered, Solved
from slimcnn.recovery.reuse import reuse_features
from slimcnn.recovery.synthetic import synthesize

__all__ = [
    "FoldedConstants",
    "Recovered",
    "Solved",
    "fold_constants",
    "least_squares",
    "recalibrate",
    "reuse_features",
    "synthesize",
]
