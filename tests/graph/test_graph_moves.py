"""Operations that move channels and use up axes, on networks small enough to know the answer by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from traced import owned, reasons, sizes, traced

from at_hand import Net
from slimcnn.layers.channel_pad import ChannelPad

Conv = nn.Conv2d
EACH = [[c] for c in range(8)]


def between(*middle: nn.Module, out: int = 8, read: int = 8) -> nn.Sequential:
    """A 1x1 convolution to `out` channels, something, and a 1x1 convolution that reads `read` channels."""
    return nn.Sequential(Conv(3, out, 1), *middle, Conv(read, 5, 1))


# --- tensors that move -----------------------------------------------------------------------------------------


def test_concatenation_puts_channels_side_by_side() -> None:
    net = Net(lambda n, x: n.c(torch.cat([n.a(x), n.b(x)], 1)), a=Conv(3, 4, 1), b=Conv(3, 6, 1), c=Conv(10, 5, 1))
    graph = traced(net)
    assert owned(graph, "a")["c.weight 1"] == [[c] for c in range(4)]
    assert owned(graph, "b")["c.weight 1"] == [[c] for c in range(4, 10)]


def test_the_same_tensor_twice_in_a_concatenation_is_read_twice() -> None:
    graph = traced(Net(lambda n, x: n.b(torch.cat([y := n.a(x), y], 1)), a=Conv(3, 8, 1), b=Conv(16, 5, 1)))
    assert owned(graph, "a")["b.weight 1"] == [[c, c + 8] for c in range(8)]


def test_the_networks_input_in_a_concatenation_keeps_its_place() -> None:
    graph = traced(Net(lambda n, x: n.b(torch.cat([x, n.a(x)], 1)), a=Conv(3, 8, 1), b=Conv(11, 5, 1)))
    assert owned(graph, "a")["b.weight 1"] == [[c + 3] for c in range(8)]


@pytest.mark.parametrize("split", [lambda y: y.chunk(2, 1), lambda y: y.split(y.shape[1] // 2, 1),
                                   lambda y: (y[:, : y.shape[1] // 2], y[:, y.shape[1] // 2 :])])  # fmt: skip
def test_halves_lose_equally_many(split: object) -> None:
    def run(n: Net, x: torch.Tensor) -> torch.Tensor:
        one, two = split(n.a(x))  # type: ignore[operator]
        return n.b(one) + n.c(two)

    graph = traced(Net(run, a=Conv(3, 16, 1), b=Conv(8, 5, 1), c=Conv(8, 5, 1)))
    assert sizes(graph) == {"a[0-7]": 8, "a[8-15]": 8}
    assert graph.bundles == ((0, 1),)
    assert owned(graph, "a[0-7]")["b.weight 1"] == owned(graph, "a[8-15]")["c.weight 1"] == EACH


def test_halves_whose_channels_meet_lose_the_same() -> None:
    def run(n: Net, x: torch.Tensor) -> torch.Tensor:
        one, two = n.a(x).chunk(2, 1)
        return n.b(one * two.sigmoid())

    graph = traced(Net(run, a=Conv(3, 16, 1), b=Conv(8, 5, 1)))
    assert owned(graph, "a")["a.weight 0"] == [[c, c + 8] for c in range(8)]
    assert len(graph["a"].parts) == 1


def test_a_shuffle_ties_equal_offsets_and_leaves_the_groups_that_read_them_free() -> None:
    def run(n: Net, x: torch.Tensor) -> torch.Tensor:
        return n.c(n.b(n.shuffle(n.a(n.stem(x)))))

    two = {name: Conv(16, 16, 1, groups=2) for name in "ab"}
    graph = traced(Net(run, stem=Conv(3, 16, 1), shuffle=nn.ChannelShuffle(2), c=Conv(16, 5, 1), **two))
    assert sizes(graph) == {"stem": 16, "a": 8, "b": 16}
    assert owned(graph, "a")["a.weight 0"] == [[c, c + 8] for c in range(8)]
    assert [part.tolist() for part in graph["a"].parts] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [len(graph[name].parts) for name in ("stem", "b")] == [2, 2]


def test_channels_taken_apart_and_stacked_again_are_followed() -> None:
    def run(n: Net, x: torch.Tensor) -> torch.Tensor:
        pairs = zip(n.a(x).unbind(1), n.b(x).unbind(1), strict=True)
        return n.c(torch.stack([value * gate.sigmoid() for value, gate in pairs], 1))

    graph = traced(Net(run, a=Conv(3, 8, 1), b=Conv(3, 8, 1), c=Conv(8, 5, 1)))
    assert owned(graph, "a")["b.weight 0"] == EACH


def shuffled(y: torch.Tensor, groups: int) -> torch.Tensor:
    n, c, h, w = y.shape
    return y.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


@pytest.mark.parametrize("shuffle", [lambda y: shuffled(y, 2), lambda y: F.channel_shuffle(y, 2)])
def test_a_channel_shuffle_is_followed(shuffle: object) -> None:
    graph = traced(Net(lambda n, x: n.b(shuffle(n.a(x))), a=Conv(3, 8, 1), b=Conv(8, 5, 1)))  # type: ignore[operator]
    positions = owned(graph, "a")
    assert positions["a.weight 0"] == [[c, c + 4] for c in range(4)]
    assert positions["b.weight 1"] == [[2 * c, 2 * c + 1] for c in range(4)]


def test_pixel_shuffle_takes_the_channels_of_one_pixel_block_together() -> None:
    graph = traced(nn.Sequential(Conv(3, 16, 1), nn.PixelShuffle(2), Conv(4, 5, 1)))
    assert owned(graph, "0") == {
        "0.weight 0": [list(range(4 * c, 4 * c + 4)) for c in range(4)],
        "0.bias 0": [list(range(4 * c, 4 * c + 4)) for c in range(4)],
        "2.weight 1": [[c] for c in range(4)],
    }


def test_pixel_unshuffle_spreads_a_channel_over_several() -> None:
    graph = traced(nn.Sequential(Conv(3, 4, 1), nn.PixelUnshuffle(2), Conv(16, 5, 1)))
    assert owned(graph, "0")["2.weight 1"] == [list(range(4 * c, 4 * c + 4)) for c in range(4)]


def test_a_flip_over_channels_is_followed() -> None:
    graph = traced(Net(lambda n, x: n.b(n.a(x).flip(1)), a=Conv(3, 8, 1), b=Conv(8, 5, 1)))
    assert owned(graph, "a")["b.weight 1"] == [[7 - c] for c in range(8)]


def test_padding_of_space_changes_nothing() -> None:
    assert sizes(traced(between(nn.ZeroPad2d(1)))) == {"0": 8}
    assert sizes(traced(between(nn.ReflectionPad2d(1)))) == {"0": 8}
    assert sizes(traced(between(nn.ReplicationPad2d((0, 1, 0, 1))))) == {"0": 8}


def test_zeros_of_a_channel_pad_go_with_the_channels_that_they_meet() -> None:
    net = Net(
        lambda n, x: n.c(n.pad(n.a(x)) + n.b(x)),
        a=Conv(3, 4, 1),
        pad=ChannelPad(1, 3),
        b=Conv(3, 8, 1),
        c=Conv(8, 5, 1),
    )
    graph = traced(net)
    assert sizes(graph) == {"a": 4, "b[0,5-7]": 4}
    assert owned(graph, "a")["b.weight 0"] == [[1], [2], [3], [4]]
    rows = {(size.module, size.name): size.channels.tolist() for size in graph.sizes}
    assert rows == {("pad", "front"): [[1, 0]], ("pad", "back"): [[1, 1], [1, 2], [1, 3]]}


def test_a_channel_pad_that_is_called_twice_pads_alike_both_times() -> None:
    net = Net(lambda n, x: n.d(n.pad(n.a(x)) + n.b(x)) + n.e(n.pad(n.c(x))), pad=ChannelPad(2, 2), a=Conv(3, 4, 1),
              b=Conv(3, 8, 1), c=Conv(3, 4, 1), d=Conv(8, 5, 1), e=Conv(8, 5, 1))  # fmt: skip
    graph = traced(net)
    assert sizes(graph) == {"a": 4, "b[0-1,6-7]": 4, "c": 4}
    assert owned(graph, "b[0-1,6-7]")["e.weight 1"] == [[0], [1], [6], [7]]


def test_slices_of_space_change_nothing() -> None:
    assert sizes(traced(Net(lambda n, x: n.b(n.a(x)[:, :, ::2, 1:]), a=Conv(3, 8, 1), b=Conv(8, 5, 1)))) == {"a": 8}


def test_assignment_into_a_slice_is_followed() -> None:
    def run(n: Net, x: torch.Tensor) -> torch.Tensor:
        y, z = n.a(x), n.b(x)
        both = torch.zeros(y.shape[0], y.shape[1] + z.shape[1], *y.shape[2:], dtype=y.dtype)
        both[:, : y.shape[1]] = y
        both[:, y.shape[1] :] = z
        return n.c(both)

    graph = traced(Net(run, a=Conv(3, 8, 1), b=Conv(3, 6, 1), c=Conv(14, 5, 1)))
    assert owned(graph, "a")["c.weight 1"] == EACH
    assert owned(graph, "b")["c.weight 1"] == [[c + 8] for c in range(6)]


def test_in_place_operations_are_nothing_special() -> None:
    def run(n: Net, x: torch.Tensor) -> torch.Tensor:
        y = n.a(x)
        y.relu_()
        y += n.b(x)
        y[:, :, :2].mul_(0.5)
        return n.c(y)

    graph = traced(Net(run, a=Conv(3, 8, 1), b=Conv(3, 8, 1), c=Conv(8, 5, 1)))
    assert sizes(graph) == {"a": 8}


# --- axes that are used up ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduce", [
    lambda y: y.mean((2, 3), keepdim=True), lambda y: y.amax((2, 3), keepdim=True), lambda y: y.sum(3, keepdim=True),
    lambda y: y.std((2, 3), keepdim=True), lambda y: y.max(3, keepdim=True)[0], lambda y: y.logsumexp((2,), True),
    lambda y: F.max_pool2d(y, 2), lambda y: F.avg_pool2d(y, 2), lambda y: F.adaptive_avg_pool2d(y, 3),
    lambda y: F.adaptive_max_pool2d(y, 3), lambda y: F.interpolate(y, scale_factor=2.0), lambda y: y.softmax(3),
    lambda y: F.interpolate(y, size=5, mode="bilinear", antialias=True), lambda y: y.cumsum(2),
    lambda y: F.avg_pool1d(y.flatten(2), 2).unsqueeze(-1), lambda y: F.layer_norm(y, y.shape[2:]),
    lambda y: y.sort(2)[0], lambda y: torch.nn.functional.normalize(y, dim=3),
])  # fmt: skip
def test_what_happens_inside_a_channel_leaves_it_free(reduce: object) -> None:
    graph = traced(Net(lambda n, x: n.b(reduce(n.a(x))), a=Conv(3, 8, 1), b=Conv(8, 5, 1)))  # type: ignore[operator]
    assert owned(graph, "a") == {"a.weight 0": EACH, "a.bias 0": EACH, "b.weight 1": EACH}


def test_sampling_at_coordinates_that_the_network_computes_locks_those() -> None:
    def run(n: Net, x: torch.Tensor) -> torch.Tensor:
        return n.b(F.grid_sample(n.a(x), n.where(x).tanh().permute(0, 2, 3, 1), align_corners=False))

    graph = traced(Net(run, a=Conv(3, 8, 1), where=Conv(3, 2, 1), b=Conv(8, 5, 1)))
    assert sizes(graph) == {"a": 8}
    assert reasons(graph) == {"where": {"used as sampling coordinates"}}
