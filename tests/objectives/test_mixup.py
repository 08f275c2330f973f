"""Mixup: the label with the larger share is the first one, whichever way a pair was drawn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import slimcnn
from slimcnn.objectives import cross_entropy
from slimcnn.training import Training


def test_the_share_of_the_first_label_is_never_below_one_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise hits would be counted for the label that an image shows less of."""
    data = slimcnn.load_dataset("digits").limit(60)
    objective, shares = cross_entropy(), []
    mixed = objective.mixed

    def noted(forward: nn.Module, x: Tensor, labels: tuple[Tensor, Tensor], share: float) -> slimcnn.Loss:
        shares.append(share)
        return mixed(forward, x, labels, share)

    monkeypatch.setattr(objective, "mixed", noted)
    torch.manual_seed(0)
    training = Training(epochs=4, batch_size=10, augmentation="default + mixup:alpha=1.0")
    list(slimcnn.fit(slimcnn.build("resnet8", in_channels=1), data, training=training, objective=objective))
    assert len(shares) > 10
    assert 0.5 <= min(shares) < 0.6
    assert 0.9 < max(shares) <= 1
