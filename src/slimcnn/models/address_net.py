"""AddressNet (He et al. 2019, "Shift-based Primitives for Efficient Convolutional Neural Networks", arXiv 1809.08458).

EXPERIMENTAL: the paper's table of blocks is not public; this network is built from its abstract. With 100 classes it
has 0.09 M params and 15 M MACs at depth 20, 0.23 M and 34 M at depth 44. The paper reports 0.1 M and 22 M, 0.2 M and
53 M.

Three stages of n blocks for 32x32 images, as in ResNet (depth 6n + 2). A block is a grouped 1x1 (two groups) to six
times the channels, batch norm, ReLU, channel shift, address shift, grouped 1x1, batch norm; x is added, then ReLU. At
stride 2 the block computes only the additional channels and concatenates them with the average-pooled x (the paper's
shortcut shift, without its memory trick).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimcnn.layers.shifts import AddressShift, ChannelShift
from slimcnn.models.building import check_positive, initialize, networks, normalized, scaled

SOURCE = "He et al. 2019, arXiv 1809.08458, abstract"


class AddressBlock(nn.Module):
    """Grouped 1x1, channel shift, address shift, grouped 1x1: ``(n, inputs, h, w)`` to ``(n, outputs, h/s, w/s)``."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        self.joins = inputs != outputs
        made = outputs - inputs if self.joins else outputs
        hidden = expansion * outputs
        self.residual = nn.Sequential(
            *normalized(inputs, hidden, groups=2), nn.ReLU(inplace=True), ChannelShift(2), AddressShift(hidden, stride),
            *normalized(hidden, made, groups=2),
        )  # fmt: skip
        self.pool = nn.AvgPool2d(stride, ceil_mode=True)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = self.residual(x)
        out: Tensor = self.relu(torch.cat([self.pool(x), y], 1) if self.joins else x + y)
        return out


class AddressNet(nn.Module):
    """The network described at the top of this file: ``(n, in_channels, h, w)`` to logits ``(n, num_classes)``."""

    def __init__(self, depth: int, num_classes: int, in_channels: int, expansion: int, width: float) -> None:
        super().__init__()
        check_positive(num_classes=num_classes, in_channels=in_channels, expansion=expansion)
        inputs = 2 * scaled(8, width)
        self.stem = nn.Sequential(*normalized(in_channels, inputs, 3), nn.ReLU(inplace=True))
        blocks = []
        for factor, first in ((1, 1), (2, 2), (4, 2)):
            for index in range((depth - 2) // 6):
                outputs = 2 * scaled(8, width) * factor
                blocks.append(AddressBlock(inputs, outputs, expansion, 1 if index else first))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(inputs, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the images `x`."""
        logits: Tensor = self.classifier(self.blocks(self.stem(x)).mean(dim=(2, 3)))
        return logits


@networks.add("address_net20", source=SOURCE, family="shift", input=(3, 32, 32), params=87_130, macs=15_385_216)
def address_net20(num_classes: int = 10, in_channels: int = 3, expansion: int = 6, width: float = 1.0) -> nn.Module:
    """AddressNet-20 for 32x32 images (He et al. 2019, arXiv 1809.08458), experimental: from the paper's abstract."""
    return AddressNet(20, num_classes, in_channels, expansion, width)


@networks.add("address_net44", source=SOURCE, family="shift", input=(3, 32, 32), params=222_426, macs=34_259_584)
def address_net44(num_classes: int = 10, in_channels: int = 3, expansion: int = 6, width: float = 1.0) -> nn.Module:
    """AddressNet-44 for 32x32 images (He et al. 2019, arXiv 1809.08458), experimental: from the paper's abstract."""
    return AddressNet(44, num_classes, in_channels, expansion, width)
