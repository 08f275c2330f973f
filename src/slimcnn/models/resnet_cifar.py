"""ResNet for 32x32 images (He, Zhang, Ren, Sun 2015, "Deep Residual Learning", arXiv 1512.03385, section 4.2).

===========  ============  ============  ===========
output size  32x32         16x16         8x8
===========  ============  ============  ===========
layers       1 + 2n        2n            2n
channels     16            32            64
===========  ============  ============  ===========

A 3x3 convolution, three stages of n blocks, global average pooling, one linear layer: depth 6n + 2. The first
block of the second and third stage has stride 2. Tensor names are those of akamaster/pytorch_resnet_cifar10,
so its published weights load without conversion.

Convolutions have no bias; each is followed by batch norm. The bottleneck network (depth 9n + 2, block outputs four
times as wide) is the post-activation ResNet-164 that He et al. 2016 ("Identity Mappings", arXiv 1603.05027) use as
baseline; its stride is in the 3x3 convolution.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from slimcnn.errors import ModelError
from slimcnn.layers.channel_pad import ChannelPad
from slimcnn.models.building import check_positive, initialize, networks, scaled

SOURCE = "He et al. 2015, arXiv 1512.03385, section 4.2; option-A weights: akamaster/pytorch_resnet_cifar10"


class Subsample(nn.Module):
    """Keep every `stride`-th pixel: ``(n, c, h, w)`` to ``(n, c, ceil(h / stride), ceil(w / stride))``."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Subsample `x`."""
        return x[:, :, :: self.stride, :: self.stride]

    def extra_repr(self) -> str:
        """The text shown by `print(model)`."""
        return str(self.stride)


def convolution(kernel: int, inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias that preserves the image size at stride 1."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def shortcut_path(option: str, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return a shortcut: identity if the shapes match, else option A (subsample, zero-pad) or B (1x1 convolution)."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    if option == "B":
        return nn.Sequential(convolution(1, inputs, outputs, stride), nn.BatchNorm2d(outputs))
    front = (outputs - inputs) // 2
    return nn.Sequential(Subsample(stride), ChannelPad(front, outputs - inputs - front))


class BasicBlock(nn.Module):
    """y = relu(x' + F(x)), F two 3x3 convolutions, x' the shortcut: ``(n, c, h, w)`` to ``(n, width, h/s, w/s)``."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = convolution(3, inputs, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(3, width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = shortcut_path(shortcut, inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return F.relu(self.shortcut(x) + residual)


class Bottleneck(nn.Module):
    """y = relu(x' + F(x)), F 1x1, 3x3, 1x1: ``(n, c, h, w)`` to ``(n, 4 width, h/s, w/s)``."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = convolution(1, inputs, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(3, width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(1, width, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut_path(shortcut, inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = F.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return F.relu(self.shortcut(x) + residual)


Block = BasicBlock | Bottleneck


def stage(block: type[Block], n: int, inputs: int, width: int, stride: int, shortcut: str) -> nn.Sequential:
    """Return `n` blocks; the first one changes the image size and the channel count."""
    rest = [block(width * block.expansion, width, 1, shortcut) for _ in range(n - 1)]
    return nn.Sequential(block(inputs, width, stride, shortcut), *rest)


class CifarResNet(nn.Module):
    """The network in the table at the top of this file: ``(n, in_channels, h, w)`` to logits ``(n, num_classes)``."""

    def __init__(
        self,
        block: type[Block],
        n: int,
        *,
        num_classes: int,
        in_channels: int,
        shortcut: str,
        width: float,
    ) -> None:
        super().__init__()
        check_positive(num_classes=num_classes, in_channels=in_channels)
        if shortcut not in ("A", "B"):
            raise ModelError(f"shortcut={shortcut!r} is invalid: choose 'A' (zeros) or 'B' (1x1 convolution)")
        widths = [scaled(channels, width) for channels in (16, 32, 64)]
        self.conv1 = convolution(3, in_channels, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        outputs = [channels * block.expansion for channels in widths]
        self.layer1 = stage(block, n, widths[0], widths[0], 1, shortcut)
        self.layer2 = stage(block, n, outputs[0], widths[1], 2, shortcut)
        self.layer3 = stage(block, n, outputs[1], widths[2], 2, shortcut)
        self.linear = nn.Linear(outputs[2], num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the images `x`."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def _basic(depth: int, num_classes: int, in_channels: int, shortcut: str, width: float) -> CifarResNet:
    return CifarResNet(
        BasicBlock,
        (depth - 2) // 6,
        num_classes=num_classes,
        in_channels=in_channels,
        shortcut=shortcut,
        width=width,
    )


@networks.add("resnet20", source=SOURCE, input=(3, 32, 32), params=269_722, macs=40_551_040, top1=91.25)
def resnet20(num_classes: int = 10, in_channels: int = 3, shortcut: str = "A", width: float = 1.0) -> nn.Module:
    """ResNet-20 for 32x32 images (He et al. 2015, arXiv 1512.03385, section 4.2)."""
    return _basic(20, num_classes, in_channels, shortcut, width)


@networks.add("resnet32", source=SOURCE, input=(3, 32, 32), params=464_154, macs=68_862_592, top1=92.49)
def resnet32(num_classes: int = 10, in_channels: int = 3, shortcut: str = "A", width: float = 1.0) -> nn.Module:
    """ResNet-32 for 32x32 images (He et al. 2015, arXiv 1512.03385, section 4.2)."""
    return _basic(32, num_classes, in_channels, shortcut, width)


@networks.add("resnet44", source=SOURCE, input=(3, 32, 32), params=658_586, macs=97_174_144, top1=92.83)
def resnet44(num_classes: int = 10, in_channels: int = 3, shortcut: str = "A", width: float = 1.0) -> nn.Module:
    """ResNet-44 for 32x32 images (He et al. 2015, arXiv 1512.03385, section 4.2)."""
    return _basic(44, num_classes, in_channels, shortcut, width)


@networks.add("resnet56", source=SOURCE, input=(3, 32, 32), params=853_018, macs=125_485_696, top1=93.03)
def resnet56(num_classes: int = 10, in_channels: int = 3, shortcut: str = "A", width: float = 1.0) -> nn.Module:
    """ResNet-56 for 32x32 images (He et al. 2015, arXiv 1512.03385, section 4.2)."""
    return _basic(56, num_classes, in_channels, shortcut, width)


@networks.add("resnet110", source=SOURCE, input=(3, 32, 32), params=1_727_962, macs=252_887_680, top1=93.57)
def resnet110(num_classes: int = 10, in_channels: int = 3, shortcut: str = "A", width: float = 1.0) -> nn.Module:
    """ResNet-110 for 32x32 images (He et al. 2015, arXiv 1512.03385, section 4.2)."""
    return _basic(110, num_classes, in_channels, shortcut, width)


@networks.add(
    "resnet164",
    source="He et al. 2016, arXiv 1603.05027, its post-activation baseline",
    input=(3, 32, 32),
    params=1_704_154,
    macs=247_646_720,
    top1=94.07,
)
def resnet164(num_classes: int = 10, in_channels: int = 3, shortcut: str = "B", width: float = 1.0) -> nn.Module:
    """ResNet-164 with bottleneck blocks for 32x32 images (He et al. 2016, arXiv 1603.05027, post-activation)."""
    n = (164 - 2) // 9
    return CifarResNet(
        Bottleneck,
        n,
        num_classes=num_classes,
        in_channels=in_channels,
        shortcut=shortcut,
        width=width,
    )


@networks.add(
    "resnet8",
    source="He et al. 2015, arXiv 1512.03385, section 4.2, with n = 1; not in the paper",
    input=(1, 8, 8),
    params=75_002,
    macs=747_136,
)
def resnet8(num_classes: int = 10, in_channels: int = 1, shortcut: str = "A", width: float = 1.0) -> nn.Module:
    """ResNet-8 for 8x8 gray images: one block per stage (the design of He et al. 2015 with n = 1)."""
    return _basic(8, num_classes, in_channels, shortcut, width)
