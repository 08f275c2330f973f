"""Small networks, one for each way in which channels travel; every convolution has at least four channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimcnn
from at_hand import Net
from slimcnn.layers.channel_pad import ChannelPad
from slimcnn.layers.shifts import ActiveShift, AddressShift, ChannelShift, GroupedShift, SparseShift

Conv = nn.Conv2d


def unit(read: int, made: int, kernel: int = 3, **options: Any) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    convolution = Conv(read, made, kernel, padding=kernel // 2, bias=False, **options)
    return nn.Sequential(convolution, nn.BatchNorm2d(made), nn.ReLU())


def head(read: int) -> nn.Sequential:
    """Global average pooling and a linear layer to 5 classes."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(read, 5))


NETWORKS: dict[str, Callable[[], nn.Module]] = {}


def network(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    NETWORKS[build.__name__] = build
    return build


@network
def plain() -> nn.Module:
    return nn.Sequential(unit(3, 8), unit(8, 12), nn.MaxPool2d(2), unit(12, 10), head(10))


@network
def without_batch_norm() -> nn.Module:
    return nn.Sequential(Conv(3, 8, 3), nn.Sigmoid(), Conv(8, 6, 1), nn.GELU(), nn.Dropout(0.1), Conv(6, 4, 1), head(4))


@network
def residual() -> nn.Module:
    def run(n: Net, x: Tensor) -> Tensor:
        y = n.stem(x)
        y = F.relu(y + n.two(n.one(y)))
        return n.head(F.relu(n.shortcut(y) + n.four(n.three(y))))

    return Net(run, stem=unit(3, 8), one=unit(8, 12), two=unit(12, 8), three=unit(8, 12, stride=2), four=unit(12, 10),
               shortcut=Conv(8, 10, 1, stride=2), head=head(10))  # fmt: skip


@network
def bottleneck() -> nn.Module:
    def run(n: Net, x: Tensor) -> Tensor:
        y = n.stem(x)
        for block in n.blocks:
            y = F.relu(y + block(y))
        return n.head(y)

    def block() -> nn.Module:
        return nn.Sequential(unit(16, 6, 1), unit(6, 6), Conv(6, 16, 1), nn.BatchNorm2d(16))

    return Net(run, stem=unit(3, 16), blocks=nn.ModuleList([block(), block()]), head=head(16))


@network
def zeros_for_a_shortcut() -> nn.Module:
    def run(n: Net, x: Tensor) -> Tensor:
        y = n.stem(x)
        return n.head(F.relu(n.pad(y[:, :, ::2, ::2]) + n.two(n.one(y))))

    return Net(run, stem=unit(3, 6), one=unit(6, 8, stride=2), two=unit(8, 12), pad=ChannelPad(3, 3), head=head(12))


@network
def concatenation() -> nn.Module:
    def run(n: Net, x: Tensor) -> Tensor:
        y = torch.cat([x, n.one(x)], 1)
        y = torch.cat([y, n.two(y)], 1)
        return n.head(n.three(torch.cat([F.avg_pool2d(y, 2), n.four(F.max_pool2d(y, 2))], 1)))

    return Net(run, one=unit(3, 6), two=unit(9, 8), four=unit(17, 4), three=unit(21, 10), head=head(10))


@network
def split_and_chunk() -> nn.Module:
    def run(n: Net, x: Tensor) -> Tensor:
        left, right = n.stem(x).chunk(2, 1)
        y = n.mix(torch.cat([right, left * n.one(right)], 1))
        first, second = y[:, : y.shape[1] // 2], y[:, y.shape[1] // 2 :]
        return n.head(first + second)

    return Net(run, stem=unit(3, 12), one=unit(6, 6), mix=unit(12, 16), head=head(8))


@network
def grouped() -> nn.Module:
    return nn.Sequential(unit(3, 16), unit(16, 24, groups=4), unit(24, 12, 1), unit(12, 12, groups=2), head(12))


@network
def depthwise() -> nn.Module:
    inverted = [unit(8, 12, 1), unit(12, 12, groups=12), Conv(12, 8, 1)]
    return nn.Sequential(unit(3, 8), *inverted, unit(8, 16, groups=8), unit(16, 10, 1), head(10))


@network
def shuffle() -> nn.Module:
    def run(n: Net, x: Tensor) -> Tensor:
        y = n.one(n.stem(x))
        batch, channels, height, width = y.shape
        y = y.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return n.head(F.channel_shuffle(n.two(y), 2))

    return Net(run, stem=unit(3, 12), one=unit(12, 16, 1, groups=2), two=unit(16, 12, 1, groups=2), head=head(12))


@network
def squeeze_and_excitation() -> nn.Module:
    def run(n: Net, x: Tensor) -> Tensor:
        y = n.stem(x)
        y = y * n.gate(y)
        return n.head(n.one(y) * n.spatial(y).sigmoid())

    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), Conv(10, 4, 1), nn.ReLU(), Conv(4, 10, 1), nn.Hardsigmoid())
    return Net(run, stem=unit(3, 10), gate=gate, one=unit(10, 8), spatial=Conv(10, 1, 3, padding=1), head=head(8))


@network
def flatten_into_linear() -> nn.Module:
    return nn.Sequential(unit(3, 6), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 12), nn.BatchNorm1d(12),
                         nn.ReLU(), nn.Linear(12, 5))  # fmt: skip


@network
def channels_last() -> nn.Module:
    def run(n: Net, x: Tensor) -> Tensor:
        y = n.stem(x).permute(0, 2, 3, 1)
        y = y + n.scale * n.two(F.gelu(n.one(y)))
        return n.classes(y.mean((1, 2)))

    return Net(run, stem=unit(3, 8), one=nn.Linear(8, 12), two=nn.Linear(12, 8), scale=nn.Parameter(torch.rand(8)),
               classes=nn.Linear(8, 5))  # fmt: skip


@network
def transposed() -> nn.Module:
    up = nn.Sequential(nn.ConvTranspose2d(10, 8, 2, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    grouped_up = nn.ConvTranspose2d(8, 12, 3, groups=2)
    return nn.Sequential(
        unit(3, 10), up, grouped_up, nn.ConvTranspose2d(12, 12, 1, groups=12), nn.PReLU(12), Conv(12, 4, 1)
    )


@network
def encoder_and_decoder() -> nn.Module:
    def run(n: Net, x: Tensor) -> Tensor:
        one = n.down1(x)
        two = n.down2(F.max_pool2d(one, 2))
        up = F.interpolate(two, scale_factor=2.0, mode="bilinear")
        return n.out(n.join(torch.cat([one, up], 1)))

    return Net(run, down1=unit(3, 8), down2=unit(8, 10), join=unit(18, 8), out=Conv(8, 4, 1))


@network
def shared_modules() -> nn.Module:
    def run(n: Net, x: Tensor) -> Tensor:
        y = n.stem(x)
        for _ in range(3):
            y = y + n.again(y)
        one, two = n.left(y), n.right(y)
        return n.head(n.both(one) + n.both(two))

    return Net(
        run, stem=unit(3, 8), again=unit(8, 8), left=unit(8, 6), right=unit(8, 6), both=unit(6, 10), head=head(10)
    )


@network
def tied_weights() -> nn.Module:
    one, two = Conv(8, 8, 3, padding=1, bias=False), Conv(8, 8, 3, padding=1, bias=False)
    two.weight = one.weight
    return nn.Sequential(unit(3, 8), one, nn.BatchNorm2d(8), nn.ReLU(), two, nn.BatchNorm2d(8), unit(8, 6), head(6))


@network
def control_flow() -> nn.Module:
    def run(n: Net, x: Tensor) -> Tensor:
        y = n.stem(x)
        if float(y.detach().abs().mean()) >= 0:
            y = n.one(y)
        for layer in n.more:
            y = layer(y) if y.shape[2] > 2 else n.never(y)
        return n.head(torch.stack([channel * 2 for channel in y.unbind(1)], 1))

    return Net(run, stem=unit(3, 8), one=unit(8, 8), never=unit(8, 8), more=nn.ModuleList([unit(8, 10), unit(10, 6)]),
               head=head(6))  # fmt: skip


@network
def functional() -> nn.Module:
    def run(n: Net, x: Tensor) -> Tensor:
        y = F.relu(F.conv2d(x, n.one, padding=1) * n.gain.view(1, -1, 1, 1))
        return n.head(F.relu(F.linear(n.norm(y).movedim(1, 3), n.two)).movedim(3, 1))

    return Net(run, one=nn.Parameter(torch.randn(8, 3, 3, 3)), gain=nn.Parameter(torch.rand(8)), norm=nn.BatchNorm2d(8),
               two=nn.Parameter(torch.randn(6, 8)), head=head(6))  # fmt: skip


@network
def pixel_shuffle() -> nn.Module:
    return nn.Sequential(unit(3, 24), nn.PixelShuffle(2), unit(6, 8), nn.PixelUnshuffle(2), unit(32, 6, 1), head(6))


@network
def gated() -> nn.Module:
    return nn.Sequential(unit(3, 8), Conv(8, 20, 1), nn.GLU(1), unit(10, 6), head(6))


@network
def partly_locked() -> nn.Module:
    def run(n: Net, x: Tensor) -> Tensor:
        y = n.two(n.groups(n.one(n.stem(x))))
        return n.head(n.three(y) * n.two(y).mean(1, keepdim=True).sigmoid())

    return Net(
        run,
        stem=unit(3, 8),
        one=unit(8, 8),
        groups=nn.GroupNorm(2, 8),
        two=unit(8, 8),
        three=unit(8, 10),
        head=head(10),
    )


@network
def shifts() -> nn.Module:
    def run(n: Net, x: Tensor) -> Tensor:
        y = n.stem(x)
        for block in n.blocks:
            y = y + block(y)
        return n.head(n.strided(y))

    def block(move: nn.Module, hidden: int = 20) -> nn.Module:
        return nn.Sequential(unit(8, hidden, 1), move, Conv(hidden, 8, 1), nn.BatchNorm2d(8))

    moves = [GroupedShift(20), GroupedShift(20, order="blocks"), ActiveShift(20), SparseShift(20), AddressShift(20),
             nn.Sequential(ChannelShift(2), GroupedShift(20))]  # fmt: skip
    return Net(run, stem=unit(3, 8), blocks=nn.ModuleList(map(block, moves)), head=head(12),
               strided=nn.Sequential(unit(8, 20, 1), GroupedShift(20, stride=2), unit(20, 12, 1)))  # fmt: skip


@network
def two_heads() -> nn.Module:
    def run(n: Net, x: Tensor) -> dict[str, Tensor]:
        y = n.stem(x)
        return {"classes": n.classes(y), "map": n.map(n.one(y))}

    return Net(run, stem=unit(3, 8), classes=head(8), one=unit(8, 6), map=Conv(6, 4, 1))


REGISTERED: dict[str, Callable[[], nn.Module]] = {
    "resnet8": lambda: slimcnn.build("resnet8", in_channels=3),
    "resnet20": lambda: slimcnn.build("resnet20"),
    "resnet20 B": lambda: slimcnn.build("resnet20", shortcut="B"),
    "resnet164 thin": lambda: slimcnn.build("resnet164", width=0.25),
    "vgg11 thin": lambda: slimcnn.build("vgg11", width=0.25),
    "vgg11 thin, deep head": lambda: slimcnn.build("vgg11", width=0.25, head="512-10"),
}
