"""What a logger gets of an epoch."""

from __future__ import annotations

import math

from slimcnn.training import Epoch


def test_only_top_1_is_logged_as_top_1() -> None:
    epoch = Epoch(1, 2, 0.5, {}, 91.0, 88.0, math.nan, 0.1, 2.0, 500.0, 1, 88.0)
    assert {"train_top1", "validation_top1"} <= set(epoch.scalars())
    assert {"train_accuracy", "validation_mean_iou"} <= set(epoch.scalars("mean IoU"))
    assert not any("top" in name for name in epoch.scalars("mean IoU"))
