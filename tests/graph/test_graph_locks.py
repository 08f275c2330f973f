"""What cannot be followed stays, and says why and where; what is left obeys the law."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from traced import image, law_holds, reasons, sizes, traced

from at_hand import Net
from slimcnn.graph import ChannelGraph, trace

Conv = nn.Conv2d


def through(middle: object, out: int = 8, read: int = 8) -> ChannelGraph:
    """The graph of: 1x1 convolution `a`, the middle, 1x1 convolution `b`."""
    return traced(Net(lambda n, x: n.b(middle(n.a(x))), a=Conv(3, out, 1), b=Conv(read, 5, 1)))  # type: ignore[operator]


def place_of(graph: ChannelGraph, layer: str) -> str:
    return next(lock.where for lock in graph.locked if lock.layer == layer)


def line_here(text: str) -> int:
    """The line of this file that holds the text first."""
    with open(__file__) as file:
        return next(i for i, line in enumerate(file, start=1) if text in line)


# --- reasons -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("middle", "reason"), [
    (lambda y: y * y.mean(1, keepdim=True), "reduced over its channels"),
    (lambda y: y * y.amax(1, keepdim=True).sigmoid(), "reduced over its channels"),
    (lambda y: y / (1 + y.norm(dim=1, keepdim=True)), "reduced over its channels"),
    (lambda y: F.normalize(y, dim=1), "reduced over its channels"),
    (lambda y: y.softmax(1), "computed across its channels"),
    (lambda y: y.cumsum(1), "computed across its channels"),
    (lambda y: F.layer_norm(y, y.shape[1:]), "normalized together: the statistics would change"),
    (lambda y: F.group_norm(y, 2), "normalized together: the statistics would change"),
    (lambda y: F.avg_pool1d(y.flatten(2).transpose(1, 2), 2).repeat(1, 1, 2).transpose(1, 2).unflatten(2, (8, 8)),
     "pooled or resampled across its channels"),
    (lambda y: F.local_response_norm(y, 3), "pooled or resampled across its channels"),
    (lambda y: y + torch.linspace(0, 1, y.shape[1]).view(1, -1, 1, 1), "combined with a tensor that cannot be pruned"),
    (lambda y: torch.fft.fft(y, dim=1).real, "computed across its channels"),
    (lambda y: torch.cdist(y, y), "operation without a rule"),
    (lambda y: y * float(y[0, 2, 0, 0]), "its values are read by the code or used in unsupported indexing"),
    (lambda y: F.dropout(y, 0.5, training=True), "random numbers are drawn for these channels"),
    (lambda y: y + 0.1 * torch.randn_like(y), "random numbers are drawn for these channels"),
    (lambda y: (y.flatten(2) @ (y.flatten(2).transpose(1, 2) @ y.flatten(2))).unflatten(2, (8, 8)),
     "summed over in a product of two activations or two weights"),
])  # fmt: skip
def test_channels_that_look_at_each_other_stay(middle: object, reason: str) -> None:
    graph = through(middle)
    assert sizes(graph) == {}
    assert any(one.startswith(reason) for one in reasons(graph)["a"])


def test_layer_norm_over_channels_last_stays_with_its_reason() -> None:
    net = Net(lambda n, x: n.b(n.norm(n.a(x).permute(0, 2, 3, 1))).mean((1, 2)), a=Conv(3, 8, 1), norm=nn.LayerNorm(8),
              b=nn.Linear(8, 5))  # fmt: skip
    graph = traced(net)
    assert sizes(graph) == {}
    assert reasons(graph) == {"a": {"normalized together: the statistics would change"}}
    assert place_of(graph, "a").startswith("native_layer_norm in norm")


def test_group_norm_keeps_its_own_channels_and_frees_the_others() -> None:
    net = nn.Sequential(Conv(3, 8, 1), nn.GroupNorm(2, 8), nn.ReLU(), Conv(8, 6, 1), nn.BatchNorm2d(6), Conv(6, 5, 1))
    assert sizes(traced(net)) == {"3": 6}


def test_attention_stays_and_its_products_are_counted() -> None:
    def run(n: Net, x: torch.Tensor) -> torch.Tensor:
        y = n.a(x).flatten(2).transpose(1, 2)
        return n.b(n.m(y, y, y, need_weights=False)[0].mean(1))

    net = Net(run, a=Conv(3, 8, 1), m=nn.MultiheadAttention(8, 2, batch_first=True), b=nn.Linear(8, 5))
    graph = traced(net)
    assert sizes(graph) == {}
    products = 2 * 64 * 64 * 8
    assert graph.macs() == 64 * 3 * 8 + 64 * 8 * 24 + products + 64 * 8 * 8 + 8 * 5


def test_bilinear_pooling_stays() -> None:
    def run(n: Net, x: torch.Tensor) -> torch.Tensor:
        y = n.a(x).flatten(2)
        return n.b(F.relu(y @ y.transpose(1, 2)).flatten(1))

    assert sizes(traced(Net(run, a=Conv(3, 6, 1), b=nn.Linear(36, 5)))) == {}


@pytest.mark.parametrize("where", [0, 3, -1])
def test_a_channel_picked_out_by_its_position_stays(where: int) -> None:
    """`x * x[:, :1].sigmoid()` runs after any cut, and reads another channel."""

    def run(n: Net, x: torch.Tensor) -> torch.Tensor:
        y = n.a(x)
        return n.b(y * y[:, where].unsqueeze(1).sigmoid())

    graph = traced(Net(run, a=Conv(3, 8, 1), b=Conv(8, 5, 1)))
    assert "selected by its position" in reasons(graph)["a"]


def test_two_channels_are_too_few_to_try_a_cut() -> None:
    net = Net(lambda n, x: n.b(n.a(x).view(x.shape[0], 2, -1).flatten(1)), a=Conv(3, 2, 1), b=nn.Linear(128, 5))
    graph = traced(net)
    assert sizes(graph) == {}
    assert reasons(graph) == {"a": {"fewer than three independent channels: too few for a trial cut"}}


def test_statistics_kept_outside_the_network_stay() -> None:
    mean, var = torch.rand(8), torch.rand(8) + 0.5
    net = Net(lambda n, x: n.b(F.batch_norm(n.a(x), mean, var)), a=Conv(3, 8, 1), b=Conv(8, 5, 1))
    graph = trace(net, image())
    assert sizes(graph) == {}
    assert reasons(graph) == {"a": {"combined with per-channel values that cannot be pruned"}}


def test_a_blur_with_one_kernel_for_all_channels_is_no_reason_to_stay() -> None:
    kernel = torch.rand(1, 1, 3, 3)

    def run(n: Net, x: torch.Tensor) -> torch.Tensor:
        y = n.a(x)
        return n.b(F.conv2d(y, kernel.to(y.dtype).expand(y.shape[1], 1, 3, 3), groups=y.shape[1]))

    assert sizes(traced(Net(run, a=Conv(3, 8, 1), b=Conv(8, 5, 1)))) == {"a": 8}


def test_a_fixed_kernel_that_differs_between_channels_stays() -> None:
    kernel = torch.rand(8, 1, 3, 3)
    net = Net(
        lambda n, x: n.b(F.conv2d(n.a(x), kernel.to(n.b.weight.dtype), groups=8)), a=Conv(3, 8, 1), b=Conv(8, 5, 1)
    )
    assert reasons(traced(net)) == {"a": {"read by a depthwise convolution whose weight cannot be pruned"}}


# --- sizes that are written into the code --------------------------------------------------------------------------


def hard_view(n: Net, x: torch.Tensor) -> torch.Tensor:
    y = n.a(x)
    return n.b(y.view(-1, 8 * 64))  # written: hard_view


def hard_slice(n: Net, x: torch.Tensor) -> torch.Tensor:
    y = n.a(x)
    return n.b(torch.cat([y[:, :4], y[:, 4:]], 1).flatten(1))  # written: hard_slice


def hard_index(n: Net, x: torch.Tensor) -> torch.Tensor:
    return n.b(n.a(x)[:, [7, 6, 5, 4, 3, 2, 1, 0]].flatten(1))  # written: hard_index


def hard_expand(n: Net, x: torch.Tensor) -> torch.Tensor:
    y = n.a(x)
    return n.b((y * y.mean((1, 2, 3), keepdim=True).expand(-1, 8, -1, -1)).flatten(1))  # written: hard_expand


def hard_split(n: Net, x: torch.Tensor) -> torch.Tensor:
    one, two = n.a(x).split(4, 1)  # written: hard_split
    return n.b(torch.cat([two, one], 1).flatten(1))


def hard_constant(n: Net, x: torch.Tensor) -> torch.Tensor:
    return n.b((n.a(x) * torch.ones(1, 8, 1, 1)).flatten(1))  # written: hard_constant


def hard_check(n: Net, x: torch.Tensor) -> torch.Tensor:
    y = n.a(x)
    if y.shape[1] != 8:
        raise RuntimeError("8 channels please")
    return n.b(y.flatten(1))


@pytest.mark.parametrize("run", [hard_view, hard_slice, hard_index, hard_split, hard_constant])
def test_a_size_in_the_code_is_found_and_its_line_is_named(run: object) -> None:
    graph = traced(Net(run, a=Conv(3, 8, 1), b=nn.Linear(512, 5)))  # type: ignore[arg-type]
    assert sizes(graph) == {}
    assert all(reason.startswith("hard-coded size in the code") for reason in reasons(graph)["a"])
    line = line_here(f"# written: {run.__name__}")  # type: ignore[attr-defined]
    assert place_of(graph, "a").endswith(f"(test_graph_locks.py:{line})")


def test_a_python_check_of_the_size_is_found() -> None:
    graph = traced(Net(hard_check, a=Conv(3, 8, 1), b=nn.Linear(512, 5)))
    assert sizes(graph) == {}
    assert reasons(graph) == {"a": {"hard-coded size in the code: 8 channels please"}}


def test_an_expansion_to_a_written_size_stays() -> None:
    graph = traced(Net(hard_expand, a=Conv(3, 8, 1), b=nn.Linear(512, 5)))
    assert sizes(graph) == {}


def test_only_what_passes_the_written_size_stays() -> None:
    def run(n: Net, x: torch.Tensor) -> torch.Tensor:
        return n.c(F.relu(n.b(n.a(x).view(-1, 8, 64).view(-1, 8, 8, 8))))

    graph = traced(Net(run, a=Conv(3, 8, 1), b=Conv(8, 6, 1), c=Conv(6, 5, 1)))
    assert sizes(graph) == {"b": 6}
    assert set(reasons(graph)) == {"a"}


class Stage(nn.Module):
    """A block with a written size, as in a CSP network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.part = partial(torch.split, split_size_or_sections=width, dim=1)
        self.wide, self.one, self.two = Conv(width, 2 * width, 1), Conv(width, width, 1), Conv(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.part(self.wide(x))
        return x + F.relu(self.one(left)) * self.two(right)


def test_a_written_size_in_one_class_is_found_in_every_module_of_it() -> None:
    net = nn.Sequential(Conv(3, 8, 1), Stage(8), Conv(8, 12, 1), Stage(12), Conv(12, 5, 1))
    graph = traced(net)
    assert {"0": 8, "2": 12}.items() <= sizes(graph).items()
    assert set(reasons(graph)) == {"1.wide", "3.wide"}
    assert {place_of(graph, layer).split(" in ")[1].split(" ")[0] for layer in reasons(graph)} == {"1", "3"}


@pytest.mark.parametrize("pick", [lambda y: y[:, 1:2], lambda y: y[:, 1, None], lambda y: y.unbind(1)[1][:, None]])
@pytest.mark.parametrize("before", range(5))
def test_a_channel_that_is_picked_by_its_place_keeps_all_others_in_theirs(pick: object, before: int) -> None:
    def run(n: Net, x: torch.Tensor) -> torch.Tensor:
        y = n.stem(x)
        return n.b(y + pick(y).sigmoid())  # type: ignore[operator]

    stem = nn.Sequential(Conv(3, 16, 1), *(Conv(16, 16, 1) for _ in range(before)))
    graph = traced(Net(run, stem=stem, b=Conv(16, 5, 1)))
    assert sizes(graph) == {f"stem.{i}": 16 for i in range(before)}


def share_of_the_channels(n: Net, x: torch.Tensor, divisor: int) -> torch.Tensor:
    y = n.a(x)
    first = y.shape[1] // divisor
    return n.b(y[:, :first]) + n.c(y[:, first:])


def test_slices_by_a_share_of_the_channels_lose_by_that_share() -> None:
    run = partial(share_of_the_channels, divisor=4)
    graph = traced(Net(run, a=Conv(3, 16, 1), b=Conv(4, 5, 1), c=Conv(12, 5, 1)))
    assert sizes(graph) == {"a[0-3]": 4, "a[4-15]": 12}
    assert [len(group.parts) for group in graph.groups] == [1, 3]
    assert graph.bundles == ((0, 1),)


def test_slices_by_a_share_that_does_not_divide_stay_because_rounding_does_not_follow_a_cut() -> None:
    run = partial(share_of_the_channels, divisor=3)
    assert sizes(traced(Net(run, a=Conv(3, 16, 1), b=Conv(5, 5, 1), c=Conv(11, 5, 1)))) == {}


@pytest.mark.parametrize("step", [lambda y: torch.cat([y[:, ::2], y[:, 1::2]], 1), lambda y: y.roll(1, 1)])
def test_rearrangements_that_depend_on_the_number_of_channels_stay(step: object) -> None:
    assert sizes(through(step)) == {}


@pytest.mark.parametrize("treat", [
    lambda y: torch.stack([channel * (i + 1) for i, channel in enumerate(y.unbind(1))], 1),
    lambda y: torch.stack([channel + torch.tensor(0.1 * i) for i, channel in enumerate(y.unbind(1))], 1),
    lambda y: torch.cat([y[:, : y.shape[1] // 4] * 2, y[:, y.shape[1] // 4 :]], 1),
    lambda y: torch.cat([part * (i + 1) for i, part in enumerate(y.split(2, 1))], 1),
    lambda y: torch.where((torch.arange(y.shape[1]) < y.shape[1] // 2).view(1, -1, 1, 1), y, 2 * y),
])  # fmt: skip
def test_channels_that_are_treated_by_their_number_stay_although_all_arrive_in_their_place(treat: object) -> None:
    """The loop runs after any cut, every channel comes out where it should, and yet with another number."""
    assert sizes(through(treat)) == {}


def test_channels_that_are_taken_apart_and_treated_alike_are_free() -> None:
    assert sizes(through(lambda y: torch.stack([channel * 2 + 1 for channel in y.unbind(1)], 1))) == {"a": 8}


@pytest.mark.parametrize("reader", [Conv(4, 5, 1), nn.ConvTranspose2d(4, 5, 1)])
def test_a_written_size_in_front_of_any_convolution_is_found(reader: nn.Module) -> None:
    net = Net(lambda n, x: n.b(n.a(x)[:, :4]), a=Conv(3, 8, 1), b=reader)
    assert "a[0-3]" not in sizes(traced(net))


def test_a_table_of_positions_in_a_buffer_stays() -> None:
    net = Net(lambda n, x: n.b(n.a(x)[:, n.order]), a=Conv(3, 8, 1), b=Conv(8, 5, 1))
    net.register_buffer("order", torch.randperm(8))
    assert sizes(traced(net)) == {}


def test_many_written_sizes_are_all_found() -> None:
    net = nn.Sequential(Conv(3, 8, 1), *(Stage(8) for _ in range(14)), Conv(8, 5, 1))
    graph = trace(net, image())
    assert law_holds(net, graph, seeds=2) > 0
    assert {f"{i}.wide" for i in range(1, 15)} <= set(reasons(graph))


def test_when_everything_is_locked_there_is_no_group_and_every_layer_says_why() -> None:
    graph = trace(nn.Sequential(Conv(3, 8, 1), nn.Softmax(1), Conv(8, 5, 1)), image())
    assert graph.groups == ()
    assert [(lock.layer, lock.channels, lock.of) for lock in graph.locked] == [("0", 8, 8), ("2", 5, 5)]
    assert graph.macs([]) == graph.macs()


def test_every_lock_says_why_in_one_line() -> None:
    graph = trace(nn.Sequential(Conv(3, 8, 1), nn.Softmax(1), Conv(8, 5, 1)), image())
    for lock in graph.locked:
        assert lock.reason
        assert "\n" not in lock.reason + lock.where
    assert place_of(graph, "0") == "_softmax in 1"
