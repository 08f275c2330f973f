"""Small networks of the benchmark of tasks: one for segmentation, one for detection."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class SmallUNet(nn.Module):
    """A U-Net of four sizes, from half of the image's size on, so that two cores train it in minutes."""

    def __init__(self, num_classes: int = 11, in_channels: int = 3, width: int = 16) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 6 * width]
        self.stem = block(in_channels, widths[0], 2)
        self.down = nn.ModuleList(
            nn.Sequential(block(small, large, 2), block(large, large)) for small, large in pairwise(widths)
        )
        self.up = nn.ModuleList(block(small + large, small) for small, large in pairwise(widths))
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes, h, w)."""
        features = [self.stem(x)]
        for down in self.down:
            features.append(down(features[-1]))
        y = features.pop()
        for up in reversed(self.up):
            beside = features.pop()
            y = F.interpolate(y, beside.shape[2:], mode="bilinear", align_corners=False)
            y = up(torch.cat([beside, y], 1))
        return F.interpolate(self.head(y), x.shape[2:], mode="bilinear", align_corners=False)


def small_unet(num_classes: int = 11, in_channels: int = 3, width: int = 16) -> nn.Module:
    """Return a U-Net with random weights."""
    return SmallUNet(num_classes, in_channels, width)


class SmallBackbone(nn.Sequential):
    """A backbone for torchvision's RetinaNet: one map of features at an eighth of the image's size."""

    def __init__(self, in_channels: int = 3, width: int = 16) -> None:
        super().__init__(
            block(in_channels, width, 2),
            block(width, 2 * width, 2),
            block(2 * width, 2 * width),
            block(2 * width, 4 * width, 2),
            block(4 * width, 4 * width),
        )
        self.out_channels = 4 * width


def small_detector(num_classes: int = 4, in_channels: int = 3, width: int = 16, size: int = 240) -> nn.Module:
    """Return a RetinaNet with a small backbone and anchors of three sizes and shapes, with random weights."""
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.retinanet import RetinaNetHead

    backbone: Any = SmallBackbone(in_channels, width)
    anchors = AnchorGenerator(((16, 32, 48, 72, 100),), ((0.75, 1.0, 1.33),))
    head = RetinaNetHead(backbone.out_channels, 15, num_classes, norm_layer=nn.BatchNorm2d)
    return RetinaNet(
        backbone, num_classes, min_size=size, max_size=2 * size, anchor_generator=anchors, head=head,
        detections_per_img=100, topk_candidates=400,
    )  # fmt: skip
