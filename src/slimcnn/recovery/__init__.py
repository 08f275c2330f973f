"""Winning accuracy back without training."""

from slimcnn.recovery.batch_norm import recalibrate
from slimcnn.recovery.least_squares import Recovered, Solved, least_squares
from slimcnn.recovery.synthetic import synthesise

__all__ = ["Recovered", "Solved", "least_squares", "recalibrate", "synthesise"]
