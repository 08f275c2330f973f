"""ShuffleNet v1 (Zhang et al. 2018, arXiv 1707.01083) and v2 (Ma et al. 2018, arXiv 1807.11164).

v1, three groups: a 3x3 convolution with stride 2 to 24 channels (12, 24, 48 at 0.5, 1.5, 2), max pooling, stages of
4, 8 and 4 units with 240, 480 and 960 channels, global average pooling, a linear layer without bias (as in the
authors' repository). A unit is a grouped 1x1 to a quarter of the channels, batch norm, ReLU, channel shuffle,
depthwise 3x3, batch norm, grouped 1x1, batch norm; x is added, then ReLU. At stride 2 the unit computes only the
additional channels and concatenates them with the average-pooled x (3x3). The first grouped 1x1 of the network has one
group.

v2 is torchvision's, with a variant for small images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimcnn.errors import ModelError
from slimcnn.models.building import check_positive, initialize, keeps_small, networks, normalized, scaled

V1 = "Zhang et al. 2018, arXiv 1707.01083, table 1; megvii's ShuffleNet-Series"
V2 = "Ma et al. 2018, arXiv 1807.11164, table 5; torchvision"
GROUPS = 3
V2_WIDTHS = {
    0.5: [24, 48, 96, 192, 1024],
    1.0: [24, 116, 232, 464, 1024],
    1.5: [24, 176, 352, 704, 1024],
    2.0: [24, 244, 488, 976, 2048],
}
"""v2: channels of the stem, the three stages and the last convolution."""


class ShuffleUnit(nn.Module):
    """ShuffleNet v1's unit: ``(n, inputs, h, w)`` to ``(n, outputs, h/s, w/s)``."""

    def __init__(self, inputs: int, outputs: int, stride: int, first_groups: int, joins: bool) -> None:
        super().__init__()
        made, hidden = outputs - inputs if joins else outputs, outputs // 4
        self.joins = joins
        self.squeeze = nn.Sequential(*normalized(inputs, hidden, groups=first_groups), nn.ReLU(inplace=True))
        self.shuffle = nn.ChannelShuffle(GROUPS)
        self.depthwise = nn.Sequential(*normalized(hidden, hidden, 3, stride=stride, groups=hidden))
        self.expand = nn.Sequential(*normalized(hidden, made, groups=GROUPS))
        self.pool = nn.AvgPool2d(3, stride, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit."""
        y = self.expand(self.depthwise(self.shuffle(self.squeeze(x))))
        out: Tensor = torch.cat([self.pool(x), self.relu(y)], 1) if self.joins else self.relu(x + y)
        return out


class ShuffleNetV1(nn.Module):
    """The network described at the top of this file: ``(n, in_channels, h, w)`` to logits ``(n, num_classes)``."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int, width: float) -> None:
        super().__init__()
        check_positive(num_classes=num_classes, in_channels=in_channels)
        small = keeps_small(image_size)
        inputs = {0.5: 12, 1.5: 24, 2.0: 48}.get(width, scaled(24, width))
        # Divisible by 4 * GROUPS: a unit has a quarter as many hidden channels, in three groups.
        widths = [max(1, scaled(20, width)) * 4 * GROUPS * factor for factor in (1, 2, 4)]
        stem = [*normalized(in_channels, inputs, 3, stride=1 if small else 2), nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*stem, nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1))
        units = []
        for stage, (outputs, count) in enumerate(zip(widths, (4, 8, 4), strict=True)):
            for index in range(count):
                groups = 1 if stage == 0 and index == 0 else GROUPS
                units.append(ShuffleUnit(inputs, outputs, 1 if index else 2, groups, joins=index == 0))
                inputs = outputs
        self.units = nn.Sequential(*units)
        self.classifier = nn.Linear(inputs, num_classes, bias=False)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the images `x`."""
        logits: Tensor = self.classifier(self.units(self.stem(x)).mean(dim=(2, 3)))
        return logits


@networks.add("shufflenet_v1", source=V1, family="spatial", input=(3, 224, 224), params=1_864_728, macs=137_460_672)
def shufflenet_v1(
    num_classes: int = 1000, in_channels: int = 3, image_size: int = 224, width: float = 1.0
) -> nn.Module:
    """ShuffleNet v1, three groups (Zhang et al. 2018, arXiv 1707.01083): grouped 1x1 convolutions, channel shuffle."""
    return ShuffleNetV1(num_classes, in_channels, image_size, width)


@networks.add("shufflenet_v2", source=V2, family="spatial", input=(3, 224, 224), params=2_278_604, macs=144_907_992)
def shufflenet_v2(
    num_classes: int = 1000, in_channels: int = 3, image_size: int = 224, width: float = 1.0
) -> nn.Module:
    """ShuffleNet v2 (Ma et al. 2018, arXiv 1807.11164): half of the channels bypass each unit; torchvision's.

    `width` is 0.5, 1, 1.5 or 2.
    """
    from torchvision.models import ShuffleNetV2

    check_positive(num_classes=num_classes, in_channels=in_channels)
    if isinstance(width, bool) or not isinstance(width, int | float) or width not in V2_WIDTHS:
        raise ModelError(f"width={width!r} is invalid: ShuffleNet v2 has the widths 0.5, 1.0, 1.5 and 2.0")
    model: nn.Module = ShuffleNetV2([4, 8, 4], V2_WIDTHS[width], num_classes)
    small = keeps_small(image_size)
    if small or in_channels != 3:
        model.conv1.register_module("0", nn.Conv2d(in_channels, 24, 3, 1 if small else 2, padding=1, bias=False))  # type: ignore[union-attr]
    if small:
        model.maxpool = nn.Identity()
    initialize(model)
    return model
