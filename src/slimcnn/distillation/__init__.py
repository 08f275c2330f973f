"""Distillation losses between a teacher and a student: one file per method, each with a pure function and a term."""

from slimcnn.distillation.attention import attention
from slimcnn.distillation.centered_logit_mse import centered_logit_mse
from slimcnn.distillation.dist import dist
from slimcnn.distillation.dkd import dkd, nckd
from slimcnn.distillation.features import LastFeatures, features, last_features
from slimcnn.distillation.fitnet import fitnet
from slimcnn.distillation.kd import kd, kd_loss
from slimcnn.distillation.rkd import rkd
from slimcnn.distillation.scale_factor import scale_factor
from slimcnn.distillation.teachers import Teacher
from slimcnn.distillation.terms import losses, objective_named
from slimcnn.objectives import cross_entropy

__all__ = [
    "LastFeatures",
    "Teacher",
    "attention",
    "centered_logit_mse",
    "cross_entropy",
    "dist",
    "dkd",
    "features",
    "fitnet",
    "kd",
    "kd_loss",
    "last_features",
    "losses",
    "nckd",
    "objective_named",
    "rkd",
    "scale_factor",
]
