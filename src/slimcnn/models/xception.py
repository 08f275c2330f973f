"""Xception (Chollet 2017, "Deep Learning with Depthwise Separable Convolutions", arXiv 1610.02357, figure 5).

Two 3x3 convolutions (32 with stride 2, 64); blocks of separable convolutions with max pooling (3, stride 2) and a 1x1
shortcut with stride 2: 128, 256, 728; eight blocks of three separable convolutions of 728; one block of 728 and 1024
with pooling; separable convolutions of 1536 and 2048; global average pooling, one linear layer. A separable convolution
is a depthwise 3x3, a 1x1 and a batch norm. The first two convolutions have no padding, except for small images.
"""

from __future__ import annotations

from torch import Tensor, nn

from slimcnn.models.building import (
    check_positive,
    initialize,
    keeps_small,
    networks,
    normalized,
    refuse_vanishing,
    scaled,
)

SOURCE = "Chollet 2017, arXiv 1610.02357, figure 5"


def separable(inputs: int, outputs: int) -> list[nn.Module]:
    """Return a separable convolution: a depthwise 3x3, a 1x1 and a batch norm."""
    return [nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False), *normalized(inputs, outputs)]


class XceptionBlock(nn.Module):
    """Alternating ReLU and separable convolutions, plus x: ``(n, inputs, h, w)`` to ``(n, widths[-1], h/s, w/s)``."""

    def __init__(self, inputs: int, widths: tuple[int, ...], stride: int = 1, pools: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for made_from, made in zip((inputs, *widths), widths, strict=False):
            layers += [nn.ReLU(), *separable(made_from, made)]
        self.residual = nn.Sequential(*layers, *([nn.MaxPool2d(3, stride, padding=1)] if pools else []))
        self.shortcut = nn.Sequential(*(normalized(inputs, widths[-1], stride=stride) if pools else []))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y: Tensor = self.shortcut(x) + self.residual(x)
        return y


class Xception(nn.Module):
    """The network described at the top of this file: ``(n, in_channels, h, w)`` to logits ``(n, num_classes)``."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int, width: float) -> None:
        super().__init__()
        check_positive(num_classes=num_classes, in_channels=in_channels)
        small = keeps_small(image_size)
        c = {channels: scaled(channels, width) for channels in (32, 64, 128, 256, 728, 1024, 1536, 2048)}
        padding = 1 if small else 0
        self.least = 1 if small else 7
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, c[32], 3, 1 if small else 2, padding, bias=False),
            nn.BatchNorm2d(c[32]), nn.ReLU(inplace=True),
            nn.Conv2d(c[32], c[64], 3, padding=padding, bias=False), nn.BatchNorm2d(c[64]), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.blocks = nn.Sequential(
            XceptionBlock(c[64], (c[128], c[128]), 1 if small else 2, pools=True),
            XceptionBlock(c[128], (c[256], c[256]), 2, pools=True),
            XceptionBlock(c[256], (c[728], c[728]), 2, pools=True),
            *(XceptionBlock(c[728], (c[728],) * 3) for _ in range(8)),
            XceptionBlock(c[728], (c[728], c[1024]), 2, pools=True),
        )
        self.exit = nn.Sequential(
            *separable(c[1024], c[1536]), nn.ReLU(inplace=True), *separable(c[1536], c[2048]), nn.ReLU(inplace=True)
        )
        self.classifier = nn.Linear(c[2048], num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the images `x`."""
        refuse_vanishing(x, self.least, self)
        logits: Tensor = self.classifier(self.exit(self.blocks(self.stem(x))).mean(dim=(2, 3)))
        return logits


@networks.add("xception", source=SOURCE, family="spatial", input=(3, 299, 299), params=22_855_952, macs=8_357_403_496)
def xception(num_classes: int = 1000, in_channels: int = 3, image_size: int = 299, width: float = 1.0) -> nn.Module:
    """Xception (Chollet 2017, arXiv 1610.02357): separable convolutions with residual connections."""
    return Xception(num_classes, in_channels, image_size, width)
