"""ShiftNet and ShiftResNet (Wu et al. 2018, "Shift: A Zero FLOP, Zero Parameter Alternative to Spatial Convolutions",
arXiv 1711.08141).

=========  ========  ======  ===========  ======
ShiftNet-A  channels  blocks  expansion    kernel
=========  ========  ======  ===========  ======
conv 7x7    32
group 1     64        5       4            5
group 2     128       6       4, then 3    5
group 3     256       7       3, then 2    3
group 4     512       3       2, then 1    3
=========  ========  ======  ===========  ======

Global average pooling, one linear layer. The stem and the first block of each group have stride 2. B has half of
A's channels everywhere. A block (CSC) is batch norm, ReLU, 1x1, shift, batch norm, ReLU, 1x1; then x is added. A
block with stride computes only the additional channels and concatenates them with the average-pooled x (3x3). The
average excludes the padding; the paper does not specify this. C is omitted: its counts cannot be reproduced from the
paper.

The stride is in the shift, not in the 1x1 after it: the function is the same, and no unused pixels are moved.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimcnn.layers.shifts import GroupedShift, Order
from slimcnn.models.building import check_positive, initialize, keeps_small, networks, normalized, scaled

SOURCE = "Wu et al. 2018, arXiv 1711.08141, table 5"
GROUPS = ((64, 5, (4, 4), 5), (128, 6, (4, 3), 5), (256, 7, (3, 2), 3), (512, 3, (2, 1), 3))
"""Channels, number of blocks, expansion (first block, other blocks), kernel size."""


class CSC(nn.Module):
    """Conv-shift-conv, x added or concatenated: ``(n, inputs, h, w)`` to ``(n, outputs, h/s, w/s)``."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int, order: Order) -> None:
        super().__init__()
        self.joins = inputs != outputs or stride > 1
        made = outputs - inputs if self.joins else outputs
        hidden = expansion * made
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.shift = GroupedShift(hidden, kernel, stride, order)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, made, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        made: Tensor = self.conv1(self.relu(self.bn1(x)))
        made = self.conv2(self.relu(self.bn2(self.shift(made))))
        return torch.cat([self.pool(x), made], 1) if self.joins else x + made


class ShiftNet(nn.Module):
    """The network in the table above, with its channels divided by `share`: images to logits ``(n, num_classes)``."""

    def __init__(
        self, share: int, num_classes: int, in_channels: int, image_size: int, width: float, order: Order
    ) -> None:
        super().__init__()
        check_positive(num_classes=num_classes, in_channels=in_channels)
        small = keeps_small(image_size)
        inputs = scaled(32 // share, width)
        self.stem = nn.Sequential(*normalized(in_channels, inputs, 7, stride=1 if small else 2), nn.ReLU(inplace=True))
        blocks = []
        for group, (channels, count, expansions, kernel) in enumerate(GROUPS):
            for index in range(count):
                outputs = scaled(channels // share, width)
                stride = 1 if index or (small and group == 0) else 2
                blocks.append(CSC(inputs, outputs, expansions[index > 0], kernel, stride, order))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(inputs, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the images `x`."""
        logits: Tensor = self.classifier(self.blocks(self.stem(x)).mean(dim=(2, 3)))
        return logits


@networks.add("shiftnet_a", source=SOURCE, family="shift", input=(3, 224, 224), params=4_187_720, macs=1_424_306_176)
def shiftnet_a(
    num_classes: int = 1000, in_channels: int = 3, image_size: int = 224, width: float = 1.0, order: Order = "blocks"
) -> nn.Module:
    """ShiftNet-A (Wu et al. 2018, arXiv 1711.08141): 1x1 convolutions with channel shifts between them.

    `order` arranges the channels of a shift: "blocks" (equal displacements are adjacent, faster to copy) or
    "interleaved", as in the authors' code. The two differ only by a permutation of hidden channels.
    """
    return ShiftNet(1, num_classes, in_channels, image_size, width, order)


@networks.add("shiftnet_b", source=SOURCE, family="shift", input=(3, 224, 224), params=1_183_000, macs=370_956_288)
def shiftnet_b(
    num_classes: int = 1000, in_channels: int = 3, image_size: int = 224, width: float = 1.0, order: Order = "blocks"
) -> nn.Module:
    """ShiftNet-B (Wu et al. 2018, arXiv 1711.08141): ShiftNet-A with half of the channels everywhere."""
    return ShiftNet(2, num_classes, in_channels, image_size, width, order)


# --- ShiftResNet ------------------------------------------------------------------------------------------------------


class ShiftBlock(nn.Module):
    """x' + F(x), F = 1x1, batch norm, ReLU, shift, 1x1, batch norm, ReLU; no ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, order: Order) -> None:
        super().__init__()
        hidden = expansion * outputs
        self.residual = nn.Sequential(
            *normalized(inputs, hidden), nn.ReLU(inplace=True),
            GroupedShift(hidden, 3, stride, order), *normalized(hidden, outputs), nn.ReLU(inplace=True),
        )  # fmt: skip
        fits = stride == 1 and inputs == outputs
        self.shortcut = nn.Sequential(*([] if fits else normalized(inputs, outputs, stride=stride)))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y: Tensor = self.shortcut(x) + self.residual(x)
        return y


class ShiftResNet(nn.Module):
    """Shift blocks in ResNet's layout for 32x32 images, 16-32-64 channels: depth 6n + 2."""

    def __init__(
        self, depth: int, num_classes: int, in_channels: int, expansion: int, width: float, order: Order
    ) -> None:
        super().__init__()
        check_positive(num_classes=num_classes, in_channels=in_channels, expansion=expansion)
        inputs = scaled(16, width)
        self.stem = nn.Sequential(*normalized(in_channels, inputs, 3), nn.ReLU(inplace=True))
        blocks = []
        for channels, first in ((16, 1), (32, 2), (64, 2)):
            for index in range((depth - 2) // 6):
                outputs = scaled(channels, width)
                blocks.append(ShiftBlock(inputs, outputs, expansion, 1 if index else first, order))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(inputs, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the images `x`."""
        logits: Tensor = self.classifier(self.blocks(self.stem(x)).mean(dim=(2, 3)))
        return logits


RESNETS = "Wu et al. 2018, arXiv 1711.08141, section 4.1; the authors' README for its counts and accuracies"


@networks.add(
    "shift_resnet20", source=RESNETS, family="shift", input=(3, 32, 32), params=186_746, macs=32_162_432, top1=91.07
)
def shift_resnet20(
    num_classes: int = 10, in_channels: int = 3, expansion: int = 6, width: float = 1.0, order: Order = "blocks"
) -> nn.Module:
    """ShiftResNet-20 for 32x32 images (Wu et al. 2018, arXiv 1711.08141); `expansion` 1, 3, 6 or 9 in the paper."""
    return ShiftResNet(20, num_classes, in_channels, expansion, width, order)


@networks.add(
    "shift_resnet56", source=RESNETS, family="shift", input=(3, 32, 32), params=583_226, macs=88_785_536, top1=93.49
)
def shift_resnet56(
    num_classes: int = 10, in_channels: int = 3, expansion: int = 6, width: float = 1.0, order: Order = "blocks"
) -> nn.Module:
    """ShiftResNet-56 for 32x32 images (Wu et al. 2018, arXiv 1711.08141); `expansion` 1, 3, 6 or 9 in the paper."""
    return ShiftResNet(56, num_classes, in_channels, expansion, width, order)


@networks.add(
    "shift_resnet110", source=RESNETS, family="shift", input=(3, 32, 32), params=1_177_946, macs=173_720_192, top1=93.03
)
def shift_resnet110(
    num_classes: int = 10, in_channels: int = 3, expansion: int = 6, width: float = 1.0, order: Order = "blocks"
) -> nn.Module:
    """ShiftResNet-110 for 32x32 images (Wu et al. 2018, arXiv 1711.08141); `expansion` 1, 3, 6 or 9 in the paper."""
    return ShiftResNet(110, num_classes, in_channels, expansion, width, order)
