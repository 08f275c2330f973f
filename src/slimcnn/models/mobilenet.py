"""MobileNet v1 (Howard et al. 2017, arXiv 1704.04861) and v2 (Sandler et al. 2018, arXiv 1801.04381).

v1: a 3x3 convolution with stride 2, then 13 times [depthwise 3x3, batch norm, ReLU, 1x1, batch norm, ReLU] (see
`LAYERS`), global average pooling, one linear layer. v2 is torchvision's, with a variant for small images.
"""

from __future__ import annotations

from torch import Tensor, nn

from slimcnn.errors import ModelError
from slimcnn.models.building import check_positive, initialize, keeps_small, networks, normalized, scaled

V1 = "Howard et al. 2017, arXiv 1704.04861, table 1"
V2 = "Sandler et al. 2018, arXiv 1801.04381, table 2; torchvision"
LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""Output channels and stride of every separable convolution."""
SETTING = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""v2: expansion, channels, number of blocks, stride of the first block."""


class MobileNetV1(nn.Module):
    """The network described at the top of this file: ``(n, in_channels, h, w)`` to logits ``(n, num_classes)``."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int, width: float) -> None:
        super().__init__()
        check_positive(num_classes=num_classes, in_channels=in_channels)
        small, inputs = keeps_small(image_size), scaled(32, width)
        layers = [*normalized(in_channels, inputs, 3, stride=1 if small else 2), nn.ReLU(inplace=True)]
        for index, (channels, stride) in enumerate(LAYERS):
            outputs = scaled(channels, width)
            stride = 1 if small and index == 1 else stride
            layers += [*normalized(inputs, inputs, 3, stride=stride, groups=inputs), nn.ReLU(inplace=True)]
            layers += [*normalized(inputs, outputs), nn.ReLU(inplace=True)]
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the images `x`."""
        logits: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return logits


@networks.add("mobilenet_v1", source=V1, family="spatial", input=(3, 224, 224), params=4_231_976, macs=568_740_352)
def mobilenet_v1(num_classes: int = 1000, in_channels: int = 3, image_size: int = 224, width: float = 1.0) -> nn.Module:
    """MobileNet v1 (Howard et al. 2017, arXiv 1704.04861): alternating depthwise and 1x1 convolutions."""
    return MobileNetV1(num_classes, in_channels, image_size, width)


@networks.add("mobilenet_v2", source=V2, family="spatial", input=(3, 224, 224), params=3_504_872, macs=300_774_272)
def mobilenet_v2(num_classes: int = 1000, in_channels: int = 3, image_size: int = 224, width: float = 1.0) -> nn.Module:
    """MobileNet v2 (Sandler et al. 2018, arXiv 1801.04381): inverted residuals, linear bottlenecks; torchvision's."""
    from torchvision.models import MobileNetV2

    check_positive(num_classes=num_classes, in_channels=in_channels)
    scaled(32, width)
    small = keeps_small(image_size)
    setting = [[t, c, n, 1 if small and index == 1 else s] for index, (t, c, n, s) in enumerate(SETTING)]
    model: nn.Module = MobileNetV2(num_classes, width, setting)
    stem = model.get_submodule("features.0")
    assert isinstance(stem, nn.Sequential)
    stem[0] = _stem(stem[0], in_channels, 1 if small else 2)
    initialize(model)
    return model


def _stem(conv: nn.Module, in_channels: int, stride: int) -> nn.Module:
    """Return the first convolution, rebuilt if its input channels or stride must change."""
    if not isinstance(conv, nn.Conv2d):
        raise ModelError(f"the first layer must be an nn.Conv2d, found {type(conv).__name__}")
    if (conv.in_channels, conv.stride) == (in_channels, (stride, stride)):
        return conv
    kernel = conv.kernel_size[0]
    return nn.Conv2d(in_channels, conv.out_channels, kernel, stride, kernel // 2, bias=conv.bias is not None)
