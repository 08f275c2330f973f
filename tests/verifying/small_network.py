"""A network that slimcnn cannot name, and the function of the user's that builds it."""

from __future__ import annotations

import torch
from torch import nn


class SmallNetwork(nn.Module):
    """One convolution, one batch norm, one linear layer."""

    def __init__(self, in_channels: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(in_channels, 8, 3), nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(self.conv(x)).relu().mean((2, 3)))


def build(in_channels: int = 1, num_classes: int = 10) -> nn.Module:
    return SmallNetwork(in_channels, num_classes)
