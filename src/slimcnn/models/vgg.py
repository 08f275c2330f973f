"""VGG for 32x32 images (Simonyan, Zisserman 2014, "Very Deep Convolutional Networks", arXiv 1409.1556, table 1).

3x3 convolutions, each followed by batch norm (Ioffe, Szegedy 2015, arXiv 1502.03167) and ReLU; five 2x2
max-poolings reduce 32x32 pixels to one. Columns A, B, D and E of the table, and `vgg9`, which is ours: column B without
its last stage, small enough to train on a CPU (at width 0.75, 118 million MACs). Three heads:

==================  =====================================================
``head``            linear layers
==================  =====================================================
``"10"``            one, as is usual in the CIFAR literature
``"512-10"``        a hidden layer of 512
``"4096-4096-10"``  two hidden layers of 4096, as in the paper
==================  =====================================================

The features of larger images are averaged over space. Tensor names are torchvision's (`features`, `classifier`).
"""

from __future__ import annotations

from torch import Tensor, nn

from slimcnn.errors import ModelError
from slimcnn.models.building import check_positive, initialize, networks, scaled

SOURCE = "Simonyan, Zisserman 2014, arXiv 1409.1556, table 1, with batch norm and 32x32 input"

STAGES: dict[int, tuple[tuple[int, ...], ...]] = {
    9: ((64, 64), (128, 128), (256, 256), (512, 512)),
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    13: ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
    19: ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512), (512, 512, 512, 512)),
}
"""Output channels of the convolutions; a max-pooling follows each stage."""


def hidden_widths(head: str, num_classes: int) -> list[int]:
    """Return the widths of the hidden linear layers that `head` specifies.

    The last number of `head` stands for the classes: 10, as in CIFAR-10, or the actual number of classes. Anything else
    raises `ModelError`.

    >>> hidden_widths("4096-4096-10", num_classes=100)
    [4096, 4096]
    >>> hidden_widths("512", num_classes=10)
    Traceback (most recent call last):
    slimcnn.errors.ModelError: head='512' is invalid: write hidden widths, then 10 for the classes, ...
    """
    numbers = [int(part) if part.isdecimal() else 0 for part in str(head).split("-")]
    if min(numbers) < 1 or numbers[-1] not in (10, num_classes):
        raise ModelError(
            f"head={head!r} is invalid: write hidden widths, then 10 for the classes, "
            "as in '10', '512-10' or '4096-4096-10'"
        )
    return numbers[:-1]


class VGG(nn.Module):
    """One column of the paper's table: ``(n, in_channels, h, w)``, h, w >= 32, to logits ``(n, num_classes)``."""

    def __init__(self, depth: int, *, num_classes: int, in_channels: int, head: str, bias: bool, width: float) -> None:
        super().__init__()
        check_positive(num_classes=num_classes, in_channels=in_channels)
        hidden = hidden_widths(head, num_classes)
        layers: list[nn.Module] = []
        inputs = in_channels
        for stage in STAGES[depth]:
            for channels in stage:
                outputs = scaled(channels, width)
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias), nn.BatchNorm2d(outputs), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)

        layers = []
        for outputs in hidden:
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(0.5)]
            inputs = outputs
        self.classifier = nn.Sequential(*layers, nn.Linear(inputs, num_classes))
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the images `x`."""
        logits: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return logits


def _vgg(depth: int, num_classes: int, in_channels: int, head: str, bias: bool, width: float) -> VGG:
    return VGG(depth, num_classes=num_classes, in_channels=in_channels, head=head, bias=bias, width=width)


@networks.add(
    "vgg9",
    source=f"{SOURCE}; column B without its last stage: ours",
    input=(3, 32, 32),
    params=4_692_426,
    macs=209_392_640,
)
def vgg9(
    num_classes: int = 10, in_channels: int = 3, head: str = "10", bias: bool = False, width: float = 1.0
) -> nn.Module:
    """VGG-9, batch norm, 32x32 images: column B of table 1 (Simonyan, Zisserman 2014) without its last stage; ours."""
    return _vgg(9, num_classes, in_channels, head, bias, width)


@networks.add("vgg11", source=SOURCE, input=(3, 32, 32), params=9_228_362, macs=152_769_536)
def vgg11(
    num_classes: int = 10, in_channels: int = 3, head: str = "10", bias: bool = False, width: float = 1.0
) -> nn.Module:
    """VGG-11 with batch norm for 32x32 images (Simonyan, Zisserman 2014, arXiv 1409.1556, table 1, column A)."""
    return _vgg(11, num_classes, in_channels, head, bias, width)


@networks.add("vgg13", source=SOURCE, input=(3, 32, 32), params=9_413_066, macs=228_267_008)
def vgg13(
    num_classes: int = 10, in_channels: int = 3, head: str = "10", bias: bool = False, width: float = 1.0
) -> nn.Module:
    """VGG-13 with batch norm for 32x32 images (Simonyan, Zisserman 2014, arXiv 1409.1556, table 1, column B)."""
    return _vgg(13, num_classes, in_channels, head, bias, width)


@networks.add("vgg16", source=SOURCE, input=(3, 32, 32), params=14_724_042, macs=313_201_664)
def vgg16(
    num_classes: int = 10, in_channels: int = 3, head: str = "10", bias: bool = False, width: float = 1.0
) -> nn.Module:
    """VGG-16 with batch norm for 32x32 images (Simonyan, Zisserman 2014, arXiv 1409.1556, table 1, column D)."""
    return _vgg(16, num_classes, in_channels, head, bias, width)


@networks.add("vgg19", source=SOURCE, input=(3, 32, 32), params=20_035_018, macs=398_136_320)
def vgg19(
    num_classes: int = 10, in_channels: int = 3, head: str = "10", bias: bool = False, width: float = 1.0
) -> nn.Module:
    """VGG-19 with batch norm for 32x32 images (Simonyan, Zisserman 2014, arXiv 1409.1556, table 1, column E)."""
    return _vgg(19, num_classes, in_channels, head, bias, width)
