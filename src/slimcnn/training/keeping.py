"""Keep the best validated weights of a training, so that it never ends worse than it started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.tasks import Metric

TOP1 = Metric("top-1")

START = 0
"""Epoch number of the weights before the first step."""


@dataclass(frozen=True)
class KeptWeights:
    """Weights and their validation metric."""

    epoch: int
    """From 1; `START` for the weights before the first step."""
    metric: float
    """The task's metric on the validation images; top-1 in percent for classification."""
    weights: dict[str, Tensor]

    def data(self) -> dict[str, Any]:
        """Return the fields as plain data, for the state file."""
        return {"epoch": self.epoch, "metric": self.metric, "weights": self.weights}


def better(kept: KeptWeights | None, epoch: int, found: float, model: nn.Module, metric: Metric = TOP1) -> KeptWeights:
    """Return the network's current weights, unless the ones kept so far have a better metric.

    >>> net = nn.Linear(1, 1)
    >>> start = better(None, START, 90.0, net)
    >>> better(start, 1, 80.0, net).epoch, better(start, 1, 90.0, net).epoch
    (0, 1)
    """
    if kept is not None and metric.gain(found, kept.metric) > 0:
        return kept
    with torch.no_grad():
        return KeptWeights(epoch, found, {name: tensor.detach().clone() for name, tensor in model.state_dict().items()})
