"""Operations that move or mix values within each channel leave the channels free; the law holds on each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import DeformConv2d, roi_align, roi_pool
from traced import image, reasons, sizes, traced

import slimcnn
from at_hand import Net
from slimcnn.graph import trace

Conv = nn.Conv2d


def through(operation: Callable[[Tensor], Tensor], **more: object) -> nn.Module:
    """A network whose operation reads six channels of 8 x 8 pixels."""
    return Net(lambda n, x: n.b(operation(n.a(x))), a=Conv(3, 6, 1), b=Conv(6, 3, 1), **more)


def boxes(y: Tensor) -> Tensor:
    numbers = torch.arange(len(y), dtype=y.dtype)[:, None]
    return torch.cat([numbers, torch.tensor([[0, 0, 4, 4]], dtype=y.dtype).expand(len(y), -1)], 1)


WITHIN: dict[str, Callable[[Tensor], Tensor]] = {
    "fft2": lambda y: torch.fft.ifft2(torch.fft.fft2(y)).real,
    "rfft2": lambda y: torch.fft.irfft2(torch.fft.rfft2(y).abs() + 1j, s=y.shape[-2:]),
    "gather": lambda y: y.gather(3, torch.arange(7, -1, -1).expand_as(y)),
    "gather by values": lambda y: y.flatten(2).gather(2, y.flatten(2).argsort(2)).view_as(y),
    "scatter_add": lambda y: torch.zeros_like(y).scatter_add(3, torch.zeros_like(y, dtype=torch.long), y),
    "rot90": lambda y: torch.rot90(y, 1, (2, 3)),
    "unfold and fold": lambda y: F.fold(F.unfold(y, 2, stride=2), (8, 8), 2, stride=2),
    "patches": lambda y: F.unfold(y, 3, padding=1).view(len(y), -1, 9, 64).mean(2).view(len(y), -1, 8, 8),
    "roi_align": lambda y: roi_align(y, boxes(y), 2),
    "roi_pool": lambda y: roi_pool(y, boxes(y), 2),
    "complex": lambda y: torch.view_as_real(2j * torch.view_as_complex(y.view(len(y), -1, 8, 4, 2))).flatten(3),
}


@pytest.mark.parametrize("kind", WITHIN)
def test_what_works_within_each_channel_keeps_them_free(kind: str) -> None:
    assert sizes(traced(through(WITHIN[kind]))) == {"a": 6}


ACROSS: dict[str, Callable[[Tensor], Tensor]] = {
    "fft": lambda y: torch.fft.fft(y, dim=1).real,
    "gather": lambda y: y.gather(1, torch.arange(5, -1, -1).view(1, 6, 1, 1).expand_as(y)),
    "gather by position": lambda y: y.gather(3, (torch.arange(6) % 2).view(1, 6, 1, 1).repeat(len(y), 1, 8, 8)),
    "scatter_add": lambda y: torch.zeros_like(y).scatter_add(1, torch.zeros_like(y, dtype=torch.long), y),
    "rois from the image": lambda y: roi_align(y, torch.cat([boxes(y)[:, :1], y[:, :4, 0, 0].abs()], 1), 2),
}


@pytest.mark.parametrize("kind", ACROSS)
def test_what_works_across_channels_locks_them(kind: str) -> None:
    assert sizes(traced(through(ACROSS[kind]))) == {}


def test_a_learned_filter_in_the_fourier_domain_goes_with_its_channel() -> None:
    net = Net(
        lambda n, x: n.b(torch.fft.irfft2(torch.fft.rfft2(n.a(x)) * torch.view_as_complex(n.w), s=(8, 8))),
        a=Conv(3, 6, 1),
        b=Conv(6, 3, 1),
        w=nn.Parameter(torch.randn(6, 8, 5, 2)),
    )
    graph = traced(net)
    assert {(axis.parameter, axis.axis) for axis in graph["a"].axes} >= {("w", 0), ("b.weight", 1)}


def deformable(**options: int) -> nn.Module:
    return Net(
        lambda n, x: n.c(n.b(y := n.a(x), n.offset(y))),
        a=Conv(3, 6, 1),
        c=Conv(8, 3, 1),
        b=DeformConv2d(6, 8, 3, padding=1, **options),
        offset=Conv(6, 18, 3, padding=1),
    )


def test_a_deformable_convolution_reads_and_makes_channels_like_any_other() -> None:
    net = deformable()
    graph = traced(net)
    assert sizes(graph) == {"a": 6, "b": 8}
    assert reasons(graph)["offset"] == {"used as sampling coordinates"}
    assert graph.macs() == slimcnn.measure(net, image()).macs


def test_a_deformable_convolution_with_groups_is_locked() -> None:
    assert "deformable convolution with groups" in str(reasons(traced(deformable(groups=2))))


class ConvLSTM(nn.Module):
    """Two steps from a constant state."""

    def __init__(self, state: float) -> None:
        super().__init__()
        self.x, self.h, self.out = Conv(3, 24, 3, padding=1), Conv(6, 24, 3, padding=1), Conv(6, 3, 1)
        self.hidden, self.state = 6, state

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_full((len(x), self.hidden, 8, 8), self.state)
        for _ in range(2):
            i, f, g, o = (self.x(x) + self.h(h)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        made: Tensor = self.out(h)
        return made


def test_a_conv_lstm_with_a_zero_state_loses_hidden_channels() -> None:
    assert sizes(traced(ConvLSTM(0.0))) == {"x": 6}


def test_a_conv_lstm_with_another_state_is_locked_and_not_for_a_computed_weight() -> None:
    graph = trace(ConvLSTM(1.0).eval(), image())
    assert sizes(graph) == {}
    assert not any("materialize" in reason for found in reasons(graph).values() for reason in found)
