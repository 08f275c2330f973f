"""IGCV3-D (Sun et al. 2018, "Interleaved Low-Rank Group Convolutions", arXiv 1806.00178).

MobileNet v2's table with more blocks. The expanding and projecting 1x1 convolutions have two groups; the channels
are permuted after the expansion, so that the projection mixes the groups. ReLU6 follows only the depthwise convolution.
The first block (t = 1) has an expansion layer, too.
"""

from __future__ import annotations

from torch import Tensor, nn

from slimcnn.models.building import check_positive, initialize, keeps_small, networks, normalized, scaled

SOURCE = "Sun et al. 2018, arXiv 1806.00178, section 4; the authors' repository"
BLOCKS = ((1, 16, 1, 1), (6, 24, 4, 2), (6, 32, 6, 2), (6, 64, 8, 2), (6, 96, 6, 1), (6, 160, 6, 2), (6, 320, 1, 1))
"""Expansion, channels, number of blocks, stride of the first block."""


class InterleavedBlock(nn.Module):
    """Grouped 1x1, permutation, depthwise 3x3, grouped 1x1: ``(n, inputs, h, w)`` to ``(n, outputs, h/s, w/s)``."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.expand = nn.Sequential(*normalized(inputs, hidden, groups=2))
        self.permute = nn.ChannelShuffle(2)
        self.depthwise = nn.Sequential(
            *normalized(hidden, hidden, 3, stride=stride, groups=hidden), nn.ReLU6(inplace=True)
        )
        self.project = nn.Sequential(*normalized(hidden, outputs, groups=2))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y: Tensor = self.project(self.depthwise(self.permute(self.expand(x))))
        return x + y if self.residual else y


class IGCV3(nn.Module):
    """The network described at the top of this file: ``(n, in_channels, h, w)`` to logits ``(n, num_classes)``."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int, width: float) -> None:
        super().__init__()
        check_positive(num_classes=num_classes, in_channels=in_channels)
        small, inputs = keeps_small(image_size), _even(32, width)
        layers: list[nn.Module] = [
            *normalized(in_channels, inputs, 3, stride=1 if small else 2),
            nn.ReLU6(inplace=True),
        ]
        for group, (expansion, channels, count, first) in enumerate(BLOCKS):
            for index in range(count):
                outputs = _even(channels, width)
                stride = 1 if index or (small and group == 1) else first
                layers.append(InterleavedBlock(inputs, outputs, expansion, stride))
                inputs = outputs
        last = max(1280, _even(1280, width))
        self.features = nn.Sequential(*layers, *normalized(inputs, last), nn.ReLU6(inplace=True))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the images `x`."""
        logits: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return logits


def _even(channels: int, width: float) -> int:
    """Scale channels and round to a multiple of 8, never down by more than 10 %, as MobileNet v2 does."""
    wanted = scaled(channels * 8, width) / 8
    found = max(8, int(wanted + 4) // 8 * 8)
    return found + 8 if found < 0.9 * wanted else found


@networks.add("igcv3", source=SOURCE, family="spatial", input=(3, 224, 224), params=3_491_688, macs=312_970_176)
def igcv3(num_classes: int = 1000, in_channels: int = 3, image_size: int = 224, width: float = 1.0) -> nn.Module:
    """IGCV3-D (Sun et al. 2018, arXiv 1806.00178): MobileNet v2's table with grouped, interleaved 1x1 convolutions."""
    return IGCV3(num_classes, in_channels, image_size, width)
