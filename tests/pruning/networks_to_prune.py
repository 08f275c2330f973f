"""Small networks to prune."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimcnn.graph import ChannelGraph


def plain(*widths: int, classes: int = 5) -> nn.Sequential:
    """3x3 convolutions with batch norm of these widths on (n, 3, h, w), pooled into a linear layer."""
    layers: list[nn.Module] = []
    read = 3
    for width in widths:
        layers += [nn.Conv2d(read, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        read = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(read, classes))


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(width, inner, 3, padding=1), nn.Conv2d(inner, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(torch.relu(self.one(x)))


def residual(width: int = 12, inner: int = 18, blocks: int = 2) -> nn.Sequential:
    """A stream of `width` channels through blocks of `inner` channels."""
    middle = [Block(width, inner) for _ in range(blocks)]
    return nn.Sequential(nn.Conv2d(3, width, 1), *middle, nn.Flatten(), nn.Linear(width * 16, 5))


def image(size: int = 4) -> Tensor:
    return torch.zeros(1, 3, size, size)


def widths(graph: ChannelGraph) -> dict[str, int]:
    return {group.name: group.channels for group in graph.groups}
