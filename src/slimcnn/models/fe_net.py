"""FE-Net (Chen et al. 2019, "All You Need is a Few Shifts", arXiv 1903.05285).

==========  ==============  ========
c = 16 r    channels        inner
==========  ==============  ========
conv 3x3/2  c, no ReLU
IB, SSL     c → c           4x
IB, pool    c → 2c          5x
FE3, pool   2c → 4c         6x
FE4, pool   4c → 8c         6x
FE4         8c → 8c         6x
FE4, pool   8c → 16c        6x
FE3         16c → 16c       6x
conv 1x1    1932
==========  ==============  ========

Global average pooling, dropout 0.2, one linear layer. An inverted bottleneck (IB) is 1x1 to the inner width, batch
norm, ReLU, sparse shift (SSL) or 2x2 average pooling, 1x1, batch norm. FE-k has k inverted bottlenecks. The first is
residual and reads the last in/2^(k-1) channels, each following one reads twice as many, and the last one, which is not
residual, reads all.

Two deviations, both found by counting. The published code derives the inner width from the output channels, which
contradicts its own counts (4.62 M, 418 M MACs); derived from the input channels, it gives the paper's 563 M at r =
1.375. At r = 1 the paper's 3.7 M and 301 M need a head of about 1500; the 1932 of the code belongs to r = 1.375
(`head`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimcnn.errors import ModelError
from slimcnn.layers.shifts import SparseShift
from slimcnn.models.building import check_positive, initialize, keeps_small, networks, normalized, scaled

SOURCE = "Chen et al. 2019, arXiv 1903.05285, table 2; the authors' repository"


class InvertedBottleneck(nn.Module):
    """1x1 to `inner` channels, sparse shift or 2x2 average pooling, 1x1; x is added if `residual`."""

    def __init__(self, inputs: int, outputs: int, inner: int, *, pool: bool = False, residual: bool = False) -> None:
        super().__init__()
        self.expand = nn.Sequential(*normalized(inputs, inner), nn.ReLU(inplace=True))
        self.move = nn.AvgPool2d(2, ceil_mode=True) if pool else SparseShift(inner)
        self.project = nn.Sequential(*normalized(inner, outputs))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y: Tensor = self.project(self.move(self.expand(x)))
        return x + y if self.residual else y


class FEBlock(nn.Module):
    """FE-k: inverted bottlenecks that read more and more of the channels; the last one reads all."""

    def __init__(self, inputs: int, outputs: int, depth: int, pool: bool, expansion: int = 6) -> None:
        super().__init__()
        first = inputs // 2 ** (depth - 1)
        if first < 1:
            raise ModelError(
                f"an FE-{depth} block needs at least {2 ** (depth - 1)} channels, found {inputs}: use a larger width"
            )
        self.seen = [first * 2**index for index in range(depth - 1)]
        """How many of the last channels each residual bottleneck reads."""
        parts = [
            inputs - self.seen[-1],
            *(wide - less for wide, less in zip(self.seen[:0:-1], self.seen[-2::-1], strict=True)),
        ]
        self.parts = [*parts, first]
        """Sizes into which the channels are split, first to last."""
        self.residuals = nn.ModuleList(
            InvertedBottleneck(width, width, expansion * width, residual=True) for width in self.seen
        )
        self.last = InvertedBottleneck(inputs, outputs, expansion * inputs, pool=pool)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        *rest, y = x.split(self.parts, dim=1)
        for block in self.residuals:
            y = torch.cat([rest.pop(), block(y)], 1)
        made: Tensor = self.last(y)
        return made


class FENet(nn.Module):
    """The network in the table at the top of this file: ``(n, in_channels, h, w)`` to logits ``(n, num_classes)``."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int, width: float, head: int) -> None:
        super().__init__()
        check_positive(num_classes=num_classes, in_channels=in_channels, head=head)
        small, c = keeps_small(image_size), scaled(16, width)
        self.stem = nn.Sequential(*normalized(in_channels, c, 3, stride=1 if small else 2))
        self.blocks = nn.Sequential(
            InvertedBottleneck(c, c, 4 * c),
            InvertedBottleneck(c, 2 * c, 5 * c, pool=not small),
            FEBlock(2 * c, 4 * c, 3, pool=True),
            FEBlock(4 * c, 8 * c, 4, pool=True),
            FEBlock(8 * c, 8 * c, 4, pool=False),
            FEBlock(8 * c, 16 * c, 4, pool=True),
            FEBlock(16 * c, 16 * c, 3, pool=False),
        )
        self.head = nn.Sequential(*normalized(16 * c, head), nn.ReLU(inplace=True))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(head, num_classes))
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the images `x`."""
        logits: Tensor = self.classifier(self.head(self.blocks(self.stem(x))).mean(dim=(2, 3)))
        return logits


@networks.add("fe_net", source=SOURCE, family="shift", input=(3, 224, 224), params=4_229_648, macs=307_152_608)
def fe_net(
    num_classes: int = 1000, in_channels: int = 3, image_size: int = 224, width: float = 1.0, head: int = 1932
) -> nn.Module:
    """FE-Net (Chen et al. 2019, arXiv 1903.05285): sparse learned shifts; `width` 1 or 1.375 in the paper."""
    return FENet(num_classes, in_channels, image_size, width, head)
