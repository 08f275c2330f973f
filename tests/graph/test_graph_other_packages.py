"""Code of other packages that `trace` once refused or locked without need."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from traced import image, sizes, traced

from at_hand import Net

Conv = nn.Conv2d


def refined(n: nn.Module, x: Tensor) -> Tensor:
    """Refine a score by the difference of two pixels, as the decoder of a keypoint heatmap does."""
    y = n.b(n.a(x))
    made: Tensor = y.mean((2, 3)) + (y[0, 0, 0, 1] - y[0, 0, 0, 0]).sign()
    return made


def test_single_values_of_one_channel_may_be_subtracted() -> None:
    assert sizes(traced(Net(refined, a=Conv(3, 6, 1), b=Conv(6, 3, 1)))) == {"a": 6}


def reversible(n: nn.Module, x: Tensor) -> Tensor:
    """Give up the memory of the halves that a backward pass computes again, as a RevNet does."""
    first, second = (half.contiguous() for half in n.a(x).chunk(2, dim=1))
    made = first + n.f(second)
    y = torch.cat([made, second + n.g(made)], 1)
    for half in (first, second, made):
        half.set_()
    result: Tensor = n.b(y)
    return result


def test_a_tensor_that_gives_up_its_memory_holds_no_channels() -> None:
    net = Net(reversible, a=Conv(3, 8, 1), f=Conv(4, 4, 1), g=Conv(4, 4, 1), b=Conv(8, 3, 1))
    assert sizes(traced(net)) == {"a[0-3]": 4, "a[4-7]": 4}


def swapped(n: nn.Module, x: Tensor) -> Tensor:
    """Let a tensor take over the memory of another."""
    y = n.a(x)
    z = y * 1
    z.set_((n.c(x) * 2).untyped_storage(), 0, y.shape, y.stride())
    result: Tensor = n.b(z)
    return result


def test_memory_that_comes_from_elsewhere_stays_locked() -> None:
    assert sizes(traced(Net(swapped, a=Conv(3, 6, 1), c=Conv(3, 6, 1), b=Conv(6, 3, 1)), image())) == {}


def test_a_floor_division_passes_every_channel_on() -> None:
    net = Net(lambda n, x: n.b(n.a(x) // 0.5), a=Conv(3, 6, 1), b=Conv(6, 3, 1))
    assert sizes(traced(net)) == {"a": 6}


def recurrent(n: nn.Module, x: Tensor) -> Tensor:
    """Split into gates as PyTorch's recurrent cells do."""
    gate, value = n.a(x).unsafe_chunk(2, 1)
    made: Tensor = n.b(gate.sigmoid() * value)
    return made


def test_the_gates_of_a_recurrent_cell_are_split_like_any_channels() -> None:
    assert sizes(traced(Net(recurrent, a=Conv(3, 12, 1), b=Conv(6, 3, 1)))) == {"a": 6}
