"""Winning accuracy back without training."""

from slimcnn.recovery.batch_norm import recalibrate

__all__ = ["recalibrate"]
