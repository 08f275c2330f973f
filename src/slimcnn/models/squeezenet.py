"""SqueezeNet 1.0 and 1.1 (Iandola et al. 2016, arXiv 1602.07360): torchvision's, with a variant for small images."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from slimcnn.models.building import check_positive, initialize, keeps_small, networks, refuse_vanishing

SOURCE = "Iandola et al. 2016, arXiv 1602.07360, table 1; torchvision"
LEAST = {"1_0": 21, "1_1": 17}
"""Image size that the three max-poolings without padding reduce to one pixel."""


def _refuse_small(least: int, model: nn.Module, images: tuple[Tensor, ...]) -> None:
    refuse_vanishing(images[0], least, model)


def _squeezenet(version: str, kernel: int, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    from torchvision.models import SqueezeNet

    check_positive(num_classes=num_classes, in_channels=in_channels)
    small = keeps_small(image_size)
    model: nn.Module = SqueezeNet(version, num_classes)
    features = model.get_submodule("features")
    assert isinstance(features, nn.Sequential)
    first = features[0]
    assert isinstance(first, nn.Conv2d)
    if small or in_channels != 3:
        stride, padding = (1, kernel // 2) if small else (2, 0)
        features[0] = nn.Conv2d(in_channels, first.out_channels, kernel, stride, padding)
        initialize(features[0])
    if small:
        features[2] = nn.Identity()
    model.register_forward_pre_hook(partial(_refuse_small, 4 if small else LEAST[version]))
    return model


@networks.add("squeezenet1_0", source=SOURCE, family="spatial", input=(3, 224, 224), params=1_248_424, macs=818_924_576)
def squeezenet1_0(num_classes: int = 1000, in_channels: int = 3, image_size: int = 224) -> nn.Module:
    """SqueezeNet 1.0 (Iandola et al. 2016, arXiv 1602.07360): 1x1 convolutions squeeze, 1x1 and 3x3 expand."""
    return _squeezenet("1_0", 7, num_classes, in_channels, image_size)


@networks.add("squeezenet1_1", source=SOURCE, family="spatial", input=(3, 224, 224), params=1_235_496, macs=349_151_936)
def squeezenet1_1(num_classes: int = 1000, in_channels: int = 3, image_size: int = 224) -> nn.Module:
    """SqueezeNet 1.1 (Iandola et al. 2016, arXiv 1602.07360, and its repository): 2.4 times fewer MACs than 1.0."""
    return _squeezenet("1_1", 3, num_classes, in_channels, image_size)
