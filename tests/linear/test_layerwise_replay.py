"""Whatever a network does on its way, going in stretches gives every number that a single run gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from at_hand import Net, randomize
from slimcnn.linear.layerwise_replay import LayerwiseReplay, ReplayedOp, Shelf, computes

Conv = nn.Conv2d


def values(out: Any) -> list[Any]:
    return [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in tree_leaves(out)]


def same(one: list[Any], other: list[Any]) -> bool:
    """Ask for the same numbers in the same order of memory."""
    return len(one) == len(other) and all(
        a.shape == b.shape and a.stride() == b.stride() and torch.equal(a.nan_to_num(), b.nan_to_num())
        if isinstance(a, Tensor)
        else a == b
        for a, b in zip(one, other, strict=True)
    )


class Recorded(TorchDispatchMode):
    """What every operation returned, as it was then."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.outs: list[list[Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not computes(func, (*args, *(kwargs or {}).values())):
            return out
        self.names.append(func._schema.name.removeprefix("aten::"))
        self.outs.append(values(out) if not self.names[-1].startswith("empty") else [])
        return out

    @classmethod
    def run(cls, model: nn.Module, x: Tensor) -> Recorded:
        recorded = cls()
        x = x.clone(memory_format=torch.preserve_format)
        with torch.no_grad(), recorded:
            model(x)
        return recorded


def begins(total: int, step: int) -> list[int]:
    return [*range(step - 1, total - 1, step), total - 1]


def go_through(model: nn.Module, batches: list[Tensor], step: int, limit: int = 2**30) -> LayerwiseReplay:
    """Go in stretches of so many operations, and hold every result that is seen against a single run."""
    expected = [Recorded.run(model, batch) for batch in batches]
    total = len(expected[0].outs)
    seen: set[tuple[int, int]] = set()

    def look(batch: int, n: int, operation: ReplayedOp) -> None:
        name = expected[batch].names[n]
        assert operation.func._schema.name == f"aten::{name}"
        assert name.startswith("empty") or same(values(operation.out), expected[batch].outs[n]), f"{n}: {name}"
        seen.add((batch, n))

    with LayerwiseReplay(model, batches, limit) as way:
        for begin in begins(total, step):
            way.go(begin, begin, range(total), look)
    assert seen == {(batch, n) for batch in range(len(batches)) for n in range(total)}
    return way


def in_place_on_views(net: Net, x: Tensor) -> Tensor:
    y = net.a(x)
    left, right = y.chunk(2, 1)
    left.relu_()
    right[:, 1:].mul_(2).add_(left[:, :1])
    first, *others = y.split([1, 3, 4], 1)
    others[1].copy_(others[1].tanh())
    y[:, 2] = first[:, 0]
    return net.b(y) + y.sum()


def input_written(net: Net, x: Tensor) -> Tensor:
    x.sub_(0.5)
    y = net.a(x)
    x[:, 0] = 7
    return net.b(y) + x.mean()


def numbers_steer(net: Net, x: Tensor) -> Tensor:
    y = net.a(x)
    scale = y.abs().max().item()
    y = y / scale if scale > 1e-3 else y
    for _ in range(int(y.relu().mean() < 10) + 1):
        y = y.sigmoid()
    return net.b(y * scale)


def long_kept(net: Net, x: Tensor) -> Tensor:
    start = net.a(x)
    view, y = start[:, ::2], start
    for _ in range(12):
        y = torch.tanh(y) + 0.1
    return net.b(start * y) + view.amax() + x.mean()


def outputs_of_several(net: Net, x: Tensor) -> dict[str, Tensor]:
    y = net.a(x)
    top, where = y.flatten(2).topk(3)
    low, high = y.aminmax(dim=1)
    one, two = y.unbind(1)[1:3]
    one.neg_()
    return {"top": top * where, "low": low + high, "rest": net.b(y) + two.unsqueeze(1)}


def strided(net: Net, x: Tensor) -> Tensor:
    y = net.a(x).permute(0, 2, 3, 1)
    wide = y[..., :1].expand(-1, -1, -1, 8)
    y = (y + wide).transpose(1, 2).contiguous()
    return net.b(y.permute(0, 3, 2, 1)) + wide.permute(0, 3, 1, 2).sum()


def shared_memory(net: Net, x: Tensor) -> Tensor:
    y = net.a(x)
    flat, again = y.view(len(x), -1), y.detach()
    flat.mul_(3)
    z = y.clone()
    again.add_(1)
    return net.b(y) + flat.sum() + z.mean()


def weights_seen(net: Net, x: Tensor) -> Tensor:
    weight = net.a.weight
    turned = weight.permute(1, 0, 2, 3)
    y = F.relu(F.conv2d(x, weight, padding=1))
    return net.b(F.conv_transpose2d(F.conv2d(y, turned), turned)) + weight.norm()


def checkpointed(net: Net, x: Tensor) -> Tensor:
    return net.b(checkpoint(lambda y: F.relu(net.a(y)), x, use_reentrant=False))


def small(forward: Callable[..., Any]) -> Net:
    return Net(forward, a=Conv(3, 8, 3, padding=1), b=Conv(8, 4, 1)).eval()


CUSTOM = [
    in_place_on_views, input_written, numbers_steer, long_kept, outputs_of_several, strided, shared_memory,
    weights_seen, checkpointed,
]  # fmt: skip


@pytest.mark.parametrize("forward", CUSTOM, ids=lambda forward: forward.__name__)
@pytest.mark.parametrize("step", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("limit", [2**30, 0])
def test_every_result_is_that_of_a_single_run(forward, step, limit):
    go_through(small(forward), [torch.randn(2, 3, 6, 5), torch.randn(2, 3, 6, 5)], step, limit)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: tv.resnet18(weights=None),
    "densenet": lambda: tv.DenseNet(8, (2, 3, 2, 2), 16),
    "shufflenet": lambda: tv.shufflenet_v2_x0_5(weights=None),
    "googlenet": lambda: tv.googlenet(weights=None, init_weights=False, aux_logits=False),
}


@pytest.mark.parametrize(("name", "step"), [("resnet18", 7), ("densenet", 5), ("shufflenet", 23), ("googlenet", 40)])
def test_the_same_on_networks_of_torchvision(name, step):
    model = NETWORKS[name]().eval()
    randomize(model)
    go_through(model, [torch.randn(2, 3, 64, 64), torch.randn(3, 3, 64, 64)], step, limit=2**20)


def test_channels_last_stays_channels_last():
    model = Net(long_kept, a=Conv(3, 8, 3), b=Conv(8, 4, 1)).eval().to(memory_format=torch.channels_last)
    go_through(model, [torch.randn(2, 3, 6, 6).to(memory_format=torch.channels_last)], step=2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_precision(dtype):
    go_through(small(long_kept).to(dtype), [torch.randn(2, 3, 5, 5, dtype=dtype)], step=3, limit=0)


@pytest.mark.parametrize("limit", [2**30, 1000, 0])
def test_batches_of_different_sizes_do_not_mix(limit):
    go_through(small(in_place_on_views), [torch.randn(n, 3, 4, 4) for n in (5, 2, 3, 7)], step=2, limit=limit)


def reshaped_in_place(net: Net, x: Tensor) -> Tensor:
    y = net.a(x).mean((2, 3))
    y.unsqueeze_(1)
    first = y[:, 0, : y.shape[2] // 2]
    second = first.relu()
    del y, first
    return second.tanh().relu()


def size_read(net: Net, x: Tensor) -> Tensor:
    y = net.a(x)
    steps = int(y.abs().mean() > 0) + 1
    for _ in range(steps):
        y = y.relu() + torch.arange(y.shape[3]) + torch.ones(1)
    return net.b(y)


@pytest.mark.parametrize("forward", [reshaped_in_place, size_read])
def test_shapes_that_change_in_place_and_constants_are_followed(forward):
    go_through(small(forward), [torch.randn(n, 3, 4, 4) for n in (3, 1)], step=1)


def test_a_number_that_was_read_is_read_anew_when_weights_change():
    def forward(net: Net, x: Tensor) -> Tensor:
        y = net.a(x)
        k = y.abs().max().item()
        return net.b(y).relu() * k

    model, x, last = small(forward), torch.randn(2, 3, 5, 5), []
    names = Recorded.run(model, x).names
    with LayerwiseReplay(model, [x]) as way:
        way.go(0, names.index("max"), [], lambda *_: None)
        model.a.weight.data.mul_(-3)
        end = len(names) - 1
        way.go(end, end, [end], lambda _, n, operation: last.append(operation.out.clone()))
    with torch.no_grad():
        assert torch.equal(last[0], model(x))


def test_batches_may_be_views_of_one_tensor():
    images = torch.randn(6, 3, 8, 8)
    go_through(small(shared_memory), [images[4:], images[:4, :, ::2], images.transpose(2, 3)[1:3]], step=2)


@pytest.mark.parametrize("limit", [2**30, 0])
def test_the_users_batches_are_not_written_into(limit):
    batches = [torch.randn(2, 3, 4, 4), torch.randn(3, 3, 4, 4)]
    before = [batch.clone() for batch in batches]
    go_through(small(input_written), batches, step=2, limit=limit)
    assert all(torch.equal(a, b) for a, b in zip(batches, before, strict=True))


class Counted(TorchDispatchMode):
    """How often convolutions are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def chain(length: int) -> nn.Sequential:
    return nn.Sequential(*(Conv(3, 3, 1) for _ in range(length))).eval()


@pytest.mark.parametrize("batches", [1, 3])
def test_every_operation_is_computed_once_where_stretches_do_not_overlap(batches):
    """A stretch begins with the operation that the last one ended on: 10 operations in three stretches are 12."""
    way = LayerwiseReplay(chain(10), [torch.randn(1, 3, 2, 2)] * batches)
    counted = Counted()
    with counted:
        for begin in (2, 5, 9):
            way.go(begin, begin, [], lambda *_: None)
    assert counted.counts["aten::convolution"] == 12 * batches


def test_an_end_beyond_the_next_begin_is_computed_again():
    way = LayerwiseReplay(chain(6), [torch.randn(1, 3, 2, 2)])
    seen: list[int] = []
    way.go(1, 3, range(6), lambda _, n, operation: seen.append(n))
    way.go(4, 5, range(6), lambda _, n, operation: seen.append(n))
    assert seen == [0, 1, 2, 3, 1, 2, 3, 4, 5]


def test_only_the_wanted_operations_are_shown():
    way = LayerwiseReplay(chain(4), [torch.randn(1, 3, 2, 2), torch.randn(2, 3, 2, 2)])
    seen: list[tuple[int, int]] = []
    way.go(3, 3, [1, 3], lambda batch, n, operation: seen.append((batch, n)))
    assert seen == [(0, 1), (0, 3), (1, 1), (1, 3)]


def test_nothing_beyond_the_end_is_computed():
    counted, way = Counted(), LayerwiseReplay(chain(9), [torch.randn(1, 3, 2, 2)])
    with counted:
        way.go(0, 2, [], lambda *_: None)
    assert counted.counts["aten::convolution"] == 3


def test_weights_changed_from_the_begin_on_are_what_comes_next():
    """As layers are solved: change the layer that the next stretch begins with, and go on."""
    model, x = small(long_kept), torch.randn(2, 3, 5, 5)
    model.c = Conv(8, 8, 1)
    model.run = lambda net, x: long_kept(Net(long_kept, a=net.a, b=lambda y: net.b(F.relu(net.c(y)))), x)
    names = Recorded.run(model, x).names
    convolutions = [n for n, name in enumerate(names) if name == "convolution"]
    way, last = LayerwiseReplay(model, [x]), []
    for n, layer in zip(convolutions, (model.a, model.c, model.b), strict=True):
        way.go(n, n + 1, [], lambda *_: None)
        layer.weight.data.mul_(-2)
    way.go(len(names) - 1, len(names) - 1, [len(names) - 1], lambda _, n, operation: last.append(operation.out.clone()))
    with torch.no_grad():
        assert torch.equal(last[0], model(x))


def test_views_of_weights_show_the_weights_as_they_are_now():
    def forward(net: Net, x: Tensor) -> Tensor:
        turned = net.b.weight.transpose(0, 1)
        return F.conv_transpose2d(net.a(x).relu(), turned.transpose(0, 1)[:, :, :1].transpose(0, 1))

    model, x, last = small(forward), torch.randn(2, 3, 5, 5), []
    way, total = LayerwiseReplay(model, [x]), len(Recorded.run(model, x).outs)
    way.go(2, 2, [], lambda *_: None)
    model.b.weight.data.mul_(-2)
    way.go(total - 1, total - 1, [total - 1], lambda _, n, operation: last.append(operation.out))
    with torch.no_grad():
        assert torch.equal(last[0], model(x))


def test_the_network_is_left_as_it_was():
    model = small(weights_seen)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    go_through(model, [torch.randn(1, 3, 4, 4)], step=2, limit=0)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.is_grad_enabled()


def test_an_error_of_the_network_is_passed_on():
    with pytest.raises(RuntimeError, match="channels"):
        LayerwiseReplay(chain(2), [torch.randn(1, 4, 2, 2)]).go(1, 1, [], lambda *_: None)


# --- the shelf ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [2**30, 100, 0])
def test_what_is_taken_is_what_was_put_and_a_copy(limit):
    """With room for 25 numbers, 16 and 8 lie in memory and 20 in a file."""
    shelf = Shelf(limit)
    tensors = [torch.randn(n) for n in (16, 8, 20)]
    for number, tensor in enumerate(tensors):
        shelf.put(number, [tensor, tensor.to(torch.bfloat16)[:0]])
    for number, tensor in enumerate(tensors):
        found, empty = shelf.take(number)
        assert torch.equal(found, tensor)
        assert (empty.dtype, empty.shape) == (torch.bfloat16, (0,))
        found.zero_()
        assert torch.equal(shelf.take(number)[0], tensor)


def test_the_latest_is_kept_wherever_earlier_ones_lay():
    shelf = Shelf(limit=40)
    for size in (10, 11, 9, 12):
        shelf.put(0, [torch.full((size,), float(size))])
        assert shelf.take(0)[0].tolist() == [size] * size


def test_files_go_with_the_shelf(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    shelf = Shelf(limit=0)
    shelf.put(0, [torch.ones(3)])
    assert [path.name[:8] for path in tmp_path.iterdir()] == ["slimcnn-"]
    del shelf
    assert not list(tmp_path.iterdir())


def test_within_the_limit_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    go_through(chain(4), [torch.randn(1, 3, 2, 2)], step=1)
    assert not list(tmp_path.iterdir())


def test_begins_end_with_the_last_operation():
    for total, step in ((7, 3), (6, 3), (1, 5)):
        found = begins(total, step)
        assert found[-1] == total - 1
        assert all(0 < b - a <= step for a, b in pairwise(found))
