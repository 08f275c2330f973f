"""Losses between a teacher and a student: one file per method."""

from slimcnn.distillation.hinton import hinton, kd_loss

__all__ = ["hinton", "kd_loss"]
