"""AS-ResNet (Jeon, Kim 2018, "Constructing Fast Network through Deconstruction of Convolution", arXiv 1806.07370).

========  =====  =====  ============
w = 32,   width  count  first stride
50, 68
========  =====  =====  ============
conv 3x3  w             2
stage 1   w      1      1
stage 2   w      3      2
stage 3   2w     4      2
stage 4   4w     6      2
stage 5   8w     3      2
========  =====  =====  ============

Batch norm, ReLU, global average pooling, one linear layer. A block is batch norm, ReLU, 1x1, batch norm, ReLU,
active shift (with the stride), 1x1; then x is added. Where the shape changes, a 1x1 convolution of the activated x is
added instead. From the authors' prototxt; the two displacements of every channel count as parameters.
"""

from __future__ import annotations

from torch import Tensor, nn

from slimcnn.layers.shifts import ActiveShift
from slimcnn.models.building import check_positive, initialize, keeps_small, networks, scaled

SOURCE = "Jeon, Kim 2018, arXiv 1806.07370, table 4; the authors' prototxt"
POSTER = "Jeon, Kim 2018, arXiv 1806.07370, section 4.1, and its poster"


class ActiveBlock(nn.Module):
    """Pre-activation residual block: 1x1, active shift, 1x1: ``(n, inputs, h, w)`` to ``(n, outputs, h/s, w/s)``."""

    def __init__(self, inputs: int, outputs: int, hidden: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.shift = ActiveShift(hidden, stride)
        self.conv2 = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        fits = stride == 1 and inputs == outputs
        self.shortcut = None if fits else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        activated = self.relu(self.bn1(x))
        passed = x if self.shortcut is None else self.shortcut(activated)
        y: Tensor = passed + self.conv2(self.shift(self.relu(self.bn2(self.conv1(activated)))))
        return y


class ASResNet(nn.Module):
    """A stem, stages of active blocks (width, count, first stride), a classifier: images to logits."""

    def __init__(
        self, stem: int, stem_stride: int, stages: list[tuple[int, int, int]], expansion: int, num_classes: int,
        in_channels: int,
    ) -> None:  # fmt: skip
        super().__init__()
        check_positive(num_classes=num_classes, in_channels=in_channels, expansion=expansion)
        self.stem = nn.Conv2d(in_channels, stem, 3, stem_stride, padding=1, bias=False)
        blocks, inputs = [], stem
        for outputs, count, first in stages:
            for index in range(count):
                blocks.append(ActiveBlock(inputs, outputs, expansion * outputs, 1 if index else first))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(inputs, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the images `x`."""
        logits: Tensor = self.classifier(self.norm(self.blocks(self.stem(x))).mean(dim=(2, 3)))
        return logits


def _as_resnet(base: int, num_classes: int, in_channels: int, image_size: int, width: float) -> ASResNet:
    small, w = keeps_small(image_size), scaled(base, width)
    stages = [(w, 1, 1), (w, 3, 1 if small else 2), (2 * w, 4, 2), (4 * w, 6, 2), (8 * w, 3, 2)]
    return ASResNet(w, 1 if small else 2, stages, 1, num_classes, in_channels)


@networks.add("as_resnet_w32", source=SOURCE, family="shift", input=(3, 224, 224), params=901_256, macs=166_840_320)
def as_resnet_w32(
    num_classes: int = 1000, in_channels: int = 3, image_size: int = 224, width: float = 1.0
) -> nn.Module:
    """AS-ResNet-w32 (Jeon, Kim 2018, arXiv 1806.07370): 1x1 convolutions and learned displacements."""
    return _as_resnet(32, num_classes, in_channels, image_size, width)


@networks.add("as_resnet_w50", source=SOURCE, family="shift", input=(3, 224, 224), params=1_962_950, macs=397_574_400)
def as_resnet_w50(
    num_classes: int = 1000, in_channels: int = 3, image_size: int = 224, width: float = 1.0
) -> nn.Module:
    """AS-ResNet-w50 (Jeon, Kim 2018, arXiv 1806.07370): 1x1 convolutions and learned displacements."""
    return _as_resnet(50, num_classes, in_channels, image_size, width)


@networks.add("as_resnet_w68", source=SOURCE, family="shift", input=(3, 224, 224), params=3_424_460, macs=726_866_688)
def as_resnet_w68(
    num_classes: int = 1000, in_channels: int = 3, image_size: int = 224, width: float = 1.0
) -> nn.Module:
    """AS-ResNet-w68 (Jeon, Kim 2018, arXiv 1806.07370): 1x1 convolutions and learned displacements."""
    return _as_resnet(68, num_classes, in_channels, image_size, width)


@networks.add("as_net", source=POSTER, family="shift", input=(3, 32, 32), params=190_586, macs=32_162_432, top1=92.54)
def as_net(num_classes: int = 10, in_channels: int = 3, expansion: int = 6, width: float = 1.0) -> nn.Module:
    """AS-Net for 32x32 images (Jeon, Kim 2018, arXiv 1806.07370): three stages of three blocks, 16-32-64.

    The paper has `expansion` 1, 3, 6, 9 at width 1, and expansion 1 at width 46/16 and 88/16.
    """
    w = scaled(16, width)
    return ASResNet(w, 1, [(w, 3, 1), (2 * w, 3, 2), (4 * w, 3, 2)], expansion, num_classes, in_channels)
