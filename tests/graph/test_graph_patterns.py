"""Patterns of real networks whose channels are free: decoders, gates, unpooling, noise in training, constants."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropBlock2d
from torch import Tensor, nn
from traced import image, owned, reasons, sizes, traced

from at_hand import Net
from slimcnn.graph import trace

Conv = nn.Conv2d
CODE = torch.zeros(2, 7)


def decoder(view: object) -> nn.Module:
    return Net(
        lambda n, x: n.head(n.up(view(F.relu(n.fc(x))))),  # type: ignore[operator]
        fc=nn.Linear(7, 6 * 16),
        up=nn.ConvTranspose2d(6, 8, 2),
        head=Conv(8, 3, 1),
    )


def test_a_decoder_loses_all_pixels_of_a_channel_that_its_linear_layer_makes() -> None:
    graph = traced(decoder(lambda y: y.view(y.shape[0], -1, 4, 4)), CODE)
    assert sizes(graph) == {"fc": 6, "up": 8}
    assert owned(graph, "fc")["fc.weight 0"] == [list(range(16 * c, 16 * c + 16)) for c in range(6)]


def test_a_decoder_with_batch_norm_before_and_after_the_view_is_free() -> None:
    net = Net(
        lambda n, x: n.head(n.after(n.before(n.fc(x)).view(len(x), -1, 4, 4))),
        fc=nn.Linear(7, 6 * 16), before=nn.BatchNorm1d(96), after=nn.BatchNorm2d(6), head=Conv(6, 3, 1),
    )  # fmt: skip
    assert owned(traced(net, CODE), "fc")["after.weight 0"] == [[c] for c in range(6)]


def test_pixels_before_channels_are_tied_too() -> None:
    net = Net(
        lambda n, x: n.c(n.fc(x).view(len(x), 4, 4, -1).permute(0, 3, 1, 2)), fc=nn.Linear(7, 96), c=Conv(6, 3, 1)
    )
    assert owned(traced(net, CODE), "fc")["fc.weight 0"] == [list(range(c, 96, 6)) for c in range(6)]


def test_the_channels_of_an_unflatten_follow_the_cut() -> None:
    layers = (nn.Linear(7, 96), nn.Unflatten(1, (6, 4, 4)), nn.ConvTranspose2d(6, 8, 2), nn.ReLU(), Conv(8, 3, 1))
    assert sizes(traced(nn.Sequential(*layers), CODE)) == {"0": 6, "2": 8}


def test_a_hard_coded_number_of_channels_in_a_decoder_is_locked() -> None:
    graph = traced(decoder(lambda y: y.view(-1, 6, 4, 4)), CODE)
    assert sizes(graph) == {"up": 8}
    assert "hard-coded size" in str(reasons(graph)["fc"])


def test_circular_padding_moves_no_channels() -> None:
    layers = (Conv(3, 6, 3), nn.ReLU(), Conv(6, 8, 3, padding=1, padding_mode="circular"), nn.ReLU(), Conv(8, 3, 1))
    assert sizes(traced(nn.Sequential(*layers))) == {"0": 6, "2": 8}


def test_a_global_average_in_channels_last_keeps_its_channels() -> None:
    net = Net(
        lambda n, x: n.b(F.adaptive_avg_pool2d(n.a(x).to(memory_format=torch.channels_last), 1)),
        a=Conv(3, 6, 3),
        b=Conv(6, 3, 1),
    )
    assert sizes(traced(net)) == {"a": 6}


def turned(y: Tensor) -> Tensor:
    """Read height as width in the same memory, under the same shape."""
    n, c, h, w = y.stride()
    return y.as_strided_(y.shape, (n, c, w, h))


def test_other_strides_of_the_same_memory_are_locked() -> None:
    net = Net(lambda n, x: n.b(turned(n.a(x))), a=Conv(3, 6, 1), b=Conv(6, 3, 1))
    assert reasons(trace(net, image()))["a"] == {"its memory is read with other strides"}


def unpooling(n: nn.Module, x: Tensor) -> Tensor:
    pooled, indices = F.max_pool2d(n.a(x), 2, return_indices=True)
    made: Tensor = n.c(F.max_unpool2d(n.b(pooled), indices, 2))
    return made


def test_unpooling_ties_the_channels_of_the_positions_to_those_of_the_values() -> None:
    graph = traced(Net(unpooling, a=Conv(3, 6, 1), b=Conv(6, 6, 3, padding=1), c=Conv(6, 3, 1)))
    assert sizes(graph) == {"a": 6}
    assert owned(graph, "a")["b.weight 0"] == [[c] for c in range(6)]


GATES = {
    "repeat": lambda gate, n: gate.repeat(1, n, 1, 1),
    "repeat_interleave": lambda gate, n: gate.repeat_interleave(n, 1),
    "cat": lambda gate, n: torch.cat([gate] * n, 1),
    "expand": lambda gate, n: gate.expand(-1, n, -1, -1),
}


def gated(kind: str, width: int = 0) -> nn.Module:
    return Net(
        lambda n, x: n.c((y := n.a(x)) * GATES[kind](n.gate(y).sigmoid(), width or y.shape[1])),
        a=Conv(3, 6, 1),
        gate=Conv(6, 1, 1),
        c=Conv(6, 3, 1),
    )


@pytest.mark.parametrize("kind", GATES)
def test_copies_of_a_gate_with_one_channel_follow_the_channels(kind: str) -> None:
    assert sizes(traced(gated(kind))) == {"a": 6}


@pytest.mark.parametrize("kind", GATES)
def test_a_hard_coded_number_of_copies_is_locked(kind: str) -> None:
    assert "hard-coded size" in str(reasons(traced(gated(kind, width=6)))["a"])


def test_a_leaky_relu_with_random_slopes_is_a_leaky_relu_in_eval_mode() -> None:
    assert sizes(traced(nn.Sequential(Conv(3, 6, 3), nn.RReLU(), Conv(6, 3, 1)))) == {"0": 6}
    always = Net(lambda n, x: n.b(F.rrelu(n.a(x), training=True)), a=Conv(3, 6, 1), b=Conv(6, 3, 1))
    assert reasons(traced(always))["a"] == {"random numbers are drawn for these channels"}


class WithAuxiliaryHead(nn.Module):
    """A network that is traced in training mode, too."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.a, self.middle, self.b, self.aux = Conv(3, 6, 1), middle, Conv(6, 3, 1), Conv(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.middle(self.a(x))
        return (self.b(y), self.aux(y)) if self.training else self.b(y)


@pytest.mark.parametrize("noise", [
    nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), nn.FeatureAlphaDropout(), DropBlock2d(0.1, 3), nn.RReLU(),
])  # fmt: skip
def test_noise_in_training_mode_does_not_lock_channels(noise: nn.Module) -> None:
    assert sizes(traced(WithAuxiliaryHead(noise).eval())) == {"a": 6}


class FixedNoise(nn.Module):
    """Random numbers for a hard-coded number of channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.new_empty(len(x), 6, 1, 1).bernoulli_() if self.training else x


def test_noise_for_a_hard_coded_number_of_channels_is_locked() -> None:
    assert "hard-coded size" in str(reasons(traced(WithAuxiliaryHead(FixedNoise()).eval()))["a"])


def test_a_transposed_convolution_with_the_same_kernel_for_every_channel_passes_channels_on() -> None:
    net = Net(
        lambda n, x: n.b(F.conv_transpose2d(y := n.a(x), y.new_ones(y.shape[1], 1, 2, 2), stride=2, groups=y.shape[1])),
        a=Conv(3, 6, 1),
        b=Conv(6, 3, 1),
    )
    assert sizes(traced(net)) == {"a": 6}


def test_different_kernels_by_position_lock_a_transposed_convolution() -> None:
    net = Net(
        lambda n, x: n.b(
            F.conv_transpose2d(y := n.a(x), torch.arange(y.shape[1]).view(-1, 1, 1, 1) + 1.0, groups=y.shape[1])
        ),
        a=Conv(3, 6, 1),
        b=Conv(6, 3, 1),
    )
    assert sizes(traced(net)) == {}


def test_batch_norm_with_one_constant_for_all_channels_needs_no_parameters() -> None:
    net = Net(
        lambda n, x: n.b(F.batch_norm(y := n.a(x), y.new_zeros(y.shape[1]), y.new_ones(y.shape[1]))),
        a=Conv(3, 6, 1),
        b=Conv(6, 3, 1),
    )
    assert sizes(traced(net)) == {"a": 6}


def test_batch_norm_with_constants_by_position_is_locked() -> None:
    net = Net(
        lambda n, x: n.b(F.batch_norm(y := n.a(x), torch.arange(y.shape[1]) * 1.0, torch.ones(y.shape[1]))),
        a=Conv(3, 6, 1),
        b=Conv(6, 3, 1),
    )
    assert reasons(traced(net))["a"] == {"combined with per-channel values that cannot be pruned"}
