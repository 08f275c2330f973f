"""Layers behind a cut make what the original made, as far as what is left allows; nobody else's things change."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from at_hand import Net, randomize, some_channels
from laws.test_law_on_random_networks import network
from slimcnn.errors import DataError
from slimcnn.graph import ChannelGraph, trace
from slimcnn.pruning import Plan, Target, allocate, prune, score
from slimcnn.recovery import Recovered, least_squares
from slimcnn.recovery.refit import HELD_OUT

Conv = nn.Conv2d
SIDE = 5


class Case:
    """A network, the same without some channels, and what `least_squares` made of it."""

    def __init__(
        self, original: nn.Module, plan: Callable[[ChannelGraph], Plan], dtype: torch.dtype = torch.float64,
        side: int = SIDE,
    ) -> None:  # fmt: skip
        self.original = original.to(dtype).eval()
        self.dtype, self.side = dtype, side
        self.graph = trace(self.original, self.images(1))
        self.plan = plan(self.graph)
        self.small = prune(self.original, self.graph, self.plan, verify=False)

    def images(self, n: int) -> Tensor:
        return torch.randn(n, 3, self.side, self.side, dtype=self.dtype)

    def solve(self, batches: Any = None, **options: Any) -> Recovered:
        batches = [self.images(48)] if batches is None else batches
        return least_squares(self.small, self.original, self.graph, self.plan, batches, **options)

    def apart(self, x: Tensor) -> float:
        """Average the squared difference of the outputs: the definition."""
        with torch.no_grad():
            return float(np.mean([(a.double() - b.double()).square().mean().item() for a, b in self.outputs(x)]))

    def outputs(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        one, other = self.small(x.clone()), self.original(x.clone())
        return list(zip(one, other, strict=True)) if isinstance(one, tuple) else [(one, other)]


def without(layer: str, *channels: int) -> Callable[[ChannelGraph], Plan]:
    """Remove channels that a layer makes."""

    def plan(graph: ChannelGraph) -> Plan:
        name = next(g.name for g in graph.groups if any(a.parameter == f"{layer}.weight" for a in g.filters))
        return Plan(graph.fingerprint, {name: channels})

    return plan


def cut(seed: int) -> Callable[[ChannelGraph], Plan]:
    return lambda graph: some_channels(graph, seed)


def mixing(layer: Any, mixed: dict[int, tuple[int, ...]]) -> Any:
    """Make each of these channels of a layer a random mixture of others."""
    for channel, others in mixed.items():
        factors = torch.randn(len(others))
        for tensor in (layer.weight, layer.bias):
            if tensor is not None:
                tensor.data[channel] = torch.tensordot(factors, tensor.data[list(others)], 1)
    return layer


def mixed_maker() -> Any:
    """A convolution of which channels 4 to 7 are mixtures of 0 to 3."""
    return mixing(Conv(3, 8, 3, padding=1), dict.fromkeys((4, 5, 6, 7), (0, 1, 2, 3)))


def uniform_depthwise() -> Any:
    """A depthwise convolution that does the same to every channel, so that mixtures stay mixtures."""
    layer = Conv(8, 8, 3, groups=8, bias=False)
    layer.weight.data[:] = layer.weight.data[:1]
    return layer


READERS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: Net(lambda n, x: n.b(n.a(x)), a=mixed_maker(), b=Conv(8, 5, 3, padding=1)),
    "strided": lambda: Net(lambda n, x: n.b(n.a(x)), a=mixed_maker(), b=Conv(8, 5, 3, 2, 1, dilation=2)),
    "without bias": lambda: Net(lambda n, x: n.b(n.a(x)), a=mixed_maker(), b=Conv(8, 5, 3, bias=False)),
    "reflecting": lambda: Net(
        lambda n, x: n.b(n.a(x)), a=mixed_maker(), b=Conv(8, 5, 3, padding=1, padding_mode="reflect")
    ),
    "one dimension": lambda: Net(lambda n, x: n.b(n.a(x).flatten(2)), a=mixed_maker(), b=nn.Conv1d(8, 5, 3)),
    "linear, flattened": lambda: Net(lambda n, x: n.b(n.a(x).mean(3).flatten(1)), a=mixed_maker(), b=nn.Linear(40, 4)),
    "transposed": lambda: Net(lambda n, x: n.b(n.a(x)), a=mixed_maker(), b=nn.ConvTranspose2d(8, 5, 3, 2, 1, 1)),
    "depthwise, then pointwise": lambda: Net(
        lambda n, x: n.c(n.b(n.a(x))), a=mixed_maker(), b=uniform_depthwise(), c=Conv(8, 5, 1)
    ),
    "norm between": lambda: Net(
        lambda n, x: n.b(n.n(n.a(x))), a=mixed_maker(), n=nn.BatchNorm2d(8), b=Conv(8, 5, 1)
    ),
    "norm behind": lambda: Net(
        lambda n, x: n.n(n.b(n.a(x))).relu(), a=mixed_maker(), b=Conv(8, 5, 1, bias=False), n=nn.BatchNorm2d(5)
    ),
    "norms everywhere": lambda: Net(
        lambda n, x: n.m(n.b(n.n(n.a(x)))).relu(), a=mixed_maker(), n=nn.BatchNorm2d(8), b=Conv(8, 5, 1, bias=False),
        m=nn.BatchNorm2d(5, affine=False),
    ),
    "concatenated": lambda: Net(
        lambda n, x: n.c(torch.cat([n.b(x), n.a(x)], 1)), a=mixed_maker(), b=Conv(3, 4, 1), c=Conv(12, 5, 1)
    ),
    "several": lambda: Net(
        lambda n, x: (y := n.a(x), (n.b(y), n.c(y).relu(), n.d(y.flatten(1))))[-1],
        a=mixed_maker(), b=Conv(8, 3, 1), c=Conv(8, 2, 3), d=nn.Linear(8 * SIDE * SIDE, 2),
    ),
    "a branch": lambda: Net(
        lambda n, x: F.relu(x + n.n(n.b(n.a(x)))), a=mixed_maker(), b=Conv(8, 3, 1, bias=False), n=nn.BatchNorm2d(3)
    ),
    "a branch in place": lambda: Net(
        lambda n, x: (x.clone().add_(n.n(n.b(n.a(x)))).relu_()), a=mixed_maker(), b=Conv(8, 3, 1), n=nn.BatchNorm2d(3)
    ),
    "a branch added alike": lambda: Net(lambda n, x: x + n.b(n.a(x)), a=mixed_maker(), b=Conv(8, 3, 1)),
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_what_mixes_from_what_is_left_is_made_again(reader):
    model = READERS[reader]()
    randomize(model)
    case = Case(model, without("a", 4, 5, 6, 7))
    x = case.images(16)
    before = case.apart(x)
    found = case.solve([case.images(200)])
    assert before > 1e-4
    assert case.apart(x) < 1e-6 * before
    assert not found.undone
    assert not [layer for layer in found.layers if layer.why_kept not in ("", "no weights reduced the error")]


def test_groups_are_made_again_each_from_its_own():
    maker = mixing(Conv(3, 8, 3, padding=1), {2: (0, 1), 3: (0, 1), 6: (4, 5), 7: (4, 5)})
    case = Case(Net(lambda n, x: n.b(n.a(x)), a=maker, b=Conv(8, 6, 3, groups=2)), without("a", 2, 3, 6, 7))
    x = case.images(16)
    before = case.apart(x)
    case.solve([case.images(200)])
    assert case.small.b.weight.shape == (6, 2, 3, 3)
    assert case.apart(x) < 1e-6 * before


BOTH_CUT: dict[str, Callable[[], tuple[Any, Any, tuple[int, ...]]]] = {
    "convolution": lambda: (Conv(8, 6, 3), Conv(6, 4, 1), (0, 3)),
    "grouped": lambda: (Conv(8, 6, 3, groups=2), Conv(6, 4, 1), (0, 4)),
    "transposed": lambda: (nn.ConvTranspose2d(8, 6, 2, 2), Conv(6, 4, 1), (0, 3)),
    "linear": lambda: (nn.Linear(8 * SIDE * SIDE, 6), nn.Linear(6, 4), (0, 3)),
}


@pytest.mark.parametrize("kind", BOTH_CUT)
def test_a_layer_that_lost_channels_of_its_own_makes_those_that_are_left(kind):
    reader, last, gone = BOTH_CUT[kind]()
    maker = mixing(Conv(3, 8, 3, padding=1), {0: (1, 2), 3: (1, 2), 4: (5, 6), 7: (5, 6)})
    flat = isinstance(reader, nn.Linear)
    model = Net(lambda n, x: n.c(n.b(n.a(x).flatten(1) if flat else n.a(x)).relu()), a=maker, b=reader, c=last)
    case = Case(model, lambda graph: Plan(graph.fingerprint, {
        **without("a", 0, 3, 4, 7)(graph).removed, **without("b", *gone)(graph).removed
    }))  # fmt: skip
    found = case.solve([case.images(200)])
    assert [layer.layer for layer in found.layers] == ["b", "c"]
    assert found.layers[0].after < 1e-6 * found.layers[0].before
    x = case.images(4)
    y = case.original.a(x)
    made = case.original.b(y.flatten(1) if flat else y)
    left = [c for c in range(6) if c not in gone]
    y = case.small.a(x)
    torch.testing.assert_close(case.small.b(y.flatten(1) if flat else y), made[:, left], rtol=0, atol=1e-4)


def test_a_channel_that_makes_nothing_costs_nothing():
    """And one that makes a constant costs a bias."""
    model = Net(lambda n, x: n.b(n.a(x).relu()), a=Conv(3, 8, 1), b=Conv(8, 4, 1))
    model.a.weight.data[:2] = 0
    model.a.bias.data[:2] = torch.tensor([-1.0, 3.0])
    case = Case(model, without("a", 0, 1))
    shift = model.b.weight[:, 1].detach().flatten() * 3
    old, bias = case.small.b.weight.clone(), case.small.b.bias.clone()
    case.solve()
    torch.testing.assert_close(case.small.b.weight, old, rtol=0, atol=1e-6)
    torch.testing.assert_close(case.small.b.bias, bias + shift, rtol=0, atol=1e-6)


def test_the_weights_are_those_of_ridge_regression_by_the_formula():
    case = Case(Net(lambda n, x: n.b(n.a(x).relu()), a=Conv(3, 8, 1), b=Conv(8, 4, 3, 2, 1)), without("a", 1, 2, 5))
    images = case.images(20)
    old = case.small.b.weight.detach().clone()
    with torch.no_grad():
        lack = (case.original(images) - case.small(images)).flatten(2).transpose(1, 2).reshape(-1, 4)
        x = F.unfold(case.small.a(images).relu(), 3, padding=1, stride=2).transpose(1, 2).reshape(-1, 45)
    found = case.solve(images.split(6))
    x, lack = x - x.mean(0), lack - lack.mean(0)
    ridge = found.layers[0].penalty * (x * x).mean() * torch.eye(45).double()
    expected = torch.linalg.solve(x.T @ x / len(x) + ridge, x.T @ lack / len(x))
    torch.testing.assert_close(case.small.b.weight - old, expected.T.view(4, 5, 3, 3), rtol=1e-7, atol=1e-9)


def test_what_the_shortcut_lacks_the_branch_makes_up_for():
    """Two channels cannot say what three did; the branch behind still sees all, and the sum is what counts."""
    model = Net(
        lambda n, x: n.d(n.a(x)) + n.c(n.b(x)), a=Conv(3, 3, 1), d=Conv(3, 4, 1), b=Conv(3, 8, 1), c=Conv(8, 4, 1)
    )
    case = Case(model, without("a", 1))
    x = case.images(16)
    alone = Case(Net(lambda n, x: n.d(n.a(x)), a=model.a, d=model.d), without("a", 1))
    alone.solve([alone.images(200)])
    found = case.solve([case.images(200)])
    assert [layer.layer for layer in found.layers if not layer.why_kept] == ["d", "c"]
    assert alone.apart(x) > 1e-3
    assert case.apart(x) < 1e-6 * alone.apart(x)


def test_a_branch_makes_up_through_its_norm():
    model = Net(
        lambda n, x: (n.d(n.a(x)) + n.n(n.c(n.b(x)))).relu(), a=Conv(3, 3, 1), d=Conv(3, 4, 1), b=Conv(3, 8, 1),
        c=Conv(8, 4, 1, bias=False), n=nn.BatchNorm2d(4),
    )  # fmt: skip
    randomize(model)
    model.n.weight.data[1] *= -1
    case = Case(model, without("a", 1))
    x = case.images(16)
    before = case.apart(x)
    case.solve([case.images(200)])
    assert case.apart(x) < 1e-6 * before


def test_what_a_norm_silences_is_left_alone():
    model = Net(lambda n, x: x + n.n(n.b(n.a(x))), a=Conv(3, 8, 1), b=Conv(8, 3, 1), n=nn.BatchNorm2d(3))
    model.n.weight.data[0] = 0
    case = Case(model, without("a", 0, 1))
    found = case.solve()
    assert not found.layers[0].why_kept
    assert all(torch.isfinite(p).all() for p in case.small.parameters())
    old = model.b.weight.detach()[0, 2:]
    torch.testing.assert_close(case.small.b.weight[0], old, rtol=0, atol=1e-9)


def test_layers_before_the_cut_keep_every_bit():
    model = nn.Sequential(Conv(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), Conv(6, 8, 1), nn.ReLU(), Conv(8, 4, 1))
    randomize(model)
    case = Case(model, without("3", 0, 1, 2))
    before = {name: tensor.clone() for name, tensor in case.small.state_dict().items()}
    found = case.solve()
    assert [layer.layer for layer in found.layers] == ["5"]
    assert {n for n, t in case.small.state_dict().items() if not torch.equal(t, before[n])} == {"5.weight", "5.bias"}


def test_layers_behind_that_read_all_they_did_are_solved_too():
    case = Case(nn.Sequential(Conv(3, 8, 1), nn.ReLU(), Conv(8, 6, 1), nn.ReLU(), Conv(6, 4, 1)), without("0", 1, 2, 3))
    assert [layer.layer for layer in case.solve().layers] == ["2", "4"]


# --- the judge ----------------------------------------------------------------------------------------------------


CHAINS: dict[int, list[tuple[str, int]]] = {
    1: [("residual", 12), ("grouped", 16), ("residual", 8)],
    2: [("dense", 8), ("depthwise", 12), ("convolution", 12)],
    3: [("transposed in groups", 8), ("two branches", 16), ("halves", 8)],
    4: [("gate", 12), ("shuffle", 8), ("transposed", 16), ("normalized", 8)],
    5: [("kept width", 8), ("convolution", 16), ("checkpointed", 8)],
    6: [("weight norm", 8), ("convolution", 12), ("again and again", 8), ("scaled", 8)],
    7: [("assigned", 16), ("pixels", 8), ("parts added", 8), ("residual", 8)],
    8: [("one dimension", 8), ("three dimensions", 16), ("padded shortcut", 8), ("convolution", 8)],
    9: [("unstacked", 8), ("convolution", 16), ("layer norm", 8), ("instance norm", 8), ("spatial attention", 8)],
    11: [("selected", 8), ("convolution", 12), ("channels last", 12), ("convolution", 8)],
    12: [("einsum", 8), ("convolution", 12), ("product", 8), ("residual", 8)],
    10: [("slices", 8), ("pairs", 8), ("glu", 8), ("numbered", 8), ("a quarter", 8), ("dense", 16), ("repeated", 8)],
}


@pytest.mark.parametrize("seed", CHAINS)
def test_on_images_held_out_no_layer_and_no_network_comes_out_worse(seed):
    torch.manual_seed(seed)
    model = network(CHAINS[seed])
    randomize(model)
    case = Case(model, cut(seed), torch.float32, side=4)
    x = case.images(32)
    held_out = x[HELD_OUT - 1 :: HELD_OUT]
    before = case.apart(held_out)
    found = case.solve(x.split(9))
    assert found.layers
    assert all(layer.after <= layer.before and layer.penalty > 0 for layer in found.layers if not layer.why_kept)
    assert found.before == pytest.approx(before, rel=1e-5)
    assert found.after == pytest.approx(case.apart(held_out), rel=1e-5)
    assert found.after <= found.before
    assert all(torch.isfinite(tensor).all() for tensor in case.small.state_dict().values())


def one_of_four() -> Case:
    """Channels 0 to 2 of the images and a copy of channel 0 are summed up; the copy of channel 1 goes."""
    model = Net(lambda n, x: n.b(n.a(x))[:, :, 0, 0], a=Conv(3, 4, 1, bias=False), b=Conv(4, 2, 1, bias=False))
    model.a.weight.data[:, :, 0, 0] = torch.eye(3)[[0, 1, 2, 0]]
    model.b.weight.data[:] = 1
    return Case(model, without("a", 1))


def test_a_layer_that_learns_nothing_true_keeps_its_weights():
    """Images held out say the opposite of the others: there the channel that went is another's opposite."""
    case = one_of_four()
    x = case.images(16)
    x[:, 1] = x[:, 0]
    x[HELD_OUT - 1 :: HELD_OUT, 1] *= -1
    found = case.solve([x])
    assert [layer.why_kept for layer in found.layers] == ["no weights reduced the error"]
    assert found.layers[0].before == found.layers[0].after
    assert found.before == found.after == pytest.approx(case.apart(x[HELD_OUT - 1 :: HELD_OUT]))
    assert case.small.b.weight.unique().tolist() == [1]


def test_where_the_output_does_not_come_nearer_all_is_undone():
    """The network looks at one corner, where the channel that went was 0; elsewhere it was another's opposite."""
    case = one_of_four()
    x = case.images(16)
    x[:, 1] = -x[:, 0]
    x[:, 1, 0, 0] = 0
    found = case.solve([x])
    assert found.undone
    assert found.layers[0].after < found.layers[0].before
    assert found.before == found.after == pytest.approx(0, abs=1e-20)
    assert case.small.b.weight.unique().tolist() == [1]
    assert "weights unchanged" in str(found)


# --- images -------------------------------------------------------------------------------------------------------


def ordinary(seed: int = 0, dtype: torch.dtype = torch.float64) -> Case:
    torch.manual_seed(seed)
    model = nn.Sequential(
        Conv(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), Conv(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 4),
    )  # fmt: skip
    randomize(model)
    return Case(model, cut(2), dtype)


@pytest.mark.parametrize("cuts", [[24], [7, 7, 7, 3], [1] * 24, [23, 1]])
def test_how_images_are_cut_into_batches_makes_no_difference(cuts):
    whole, parts = ordinary(), ordinary()
    images = whole.images(24)
    one, other = whole.solve([images]), parts.solve(images.split(cuts))
    for name, tensor in whole.small.state_dict().items():
        torch.testing.assert_close(parts.small.state_dict()[name], tensor, rtol=1e-6, atol=1e-8, msg=name)
    assert [(a.layer, a.penalty) for a in one.layers] == [(b.layer, b.penalty) for b in other.layers]
    assert one.after == pytest.approx(other.after)


def test_labels_and_empty_batches_are_passed_over():
    plain, labeled = ordinary(), ordinary()
    images = plain.images(24)
    plain.solve([images])
    labeled.solve(iter([(images[:20], torch.zeros(20)), images[:0], (images[20:], torch.zeros(4), "names")]))
    for one, other in zip(plain.small.state_dict().values(), labeled.small.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_of_fewer_than_four_images_positions_are_held_out(n):
    case = Case(nn.Sequential(mixed_maker(), Conv(8, 5, 1), nn.Flatten(), nn.Linear(125, 3)), without("0", 4, 5, 6, 7))
    x = case.images(n)
    before = case.apart(x)
    found = case.solve([x])
    assert found.layers[0].after < 1e-6 * found.layers[0].before
    assert found.layers[1].why_kept == "too few images to hold some out"
    assert case.apart(x) < 1e-6 * before


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
def test_images_without_contrast_are_matched_by_biases(value):
    case = Case(nn.Sequential(Conv(3, 8, 1), nn.ReLU(), Conv(8, 5, 1), nn.ReLU(), Conv(5, 2, 1)), without("0", 0, 3, 4))
    x = torch.full((12, 3, SIDE, SIDE), value, dtype=torch.float64)
    weights = [p.clone() for p in case.small.parameters() if p.dim() > 1]
    found = case.solve([x])
    assert found.after <= 1e-12
    for old, new in zip(weights, [p for p in case.small.parameters() if p.dim() > 1], strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("batches", "message"), [
    (lambda x: [x, x.new_full((3, 3, SIDE, SIDE), math.nan)], "batch 1 .* 225 values that are not finite"),
    (lambda x: [torch.cat([x, x * math.inf])], "batch 0 .* not finite"),
    (lambda x: [], "at least one batch"),
    (lambda x: [x[:0]], "at least one batch"),
    (lambda x: [x[:, :2]], r"\(1, 2, 5, 5\) fail: .* 3 channels"),
    (lambda x: [x[:, :, :1]], r"\(1, 3, 1, 5\) fail"),
    (lambda x: [x, x[:, :2]], r"\(1, 2, 5, 5\) fail: .* 3 channels"),
    (lambda x: [x, x[0]], r"\(1, 5, 5\) fail"),
    (lambda x: [x, {"images": x}], "batch 1 .* must be a tensor .*, found dict"),
])  # fmt: skip
def test_images_that_do_not_fit_are_refused_and_nothing_changes(batches, message):
    case = ordinary()
    before = {name: tensor.clone() for name, tensor in case.small.state_dict().items()}
    case.small.train()
    with pytest.raises(DataError, match=message) as caught:
        case.solve(batches(case.images(8)))
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in case.small.state_dict().items())
    assert all(module.training for module in case.small.modules())


# --- everybody else's ---------------------------------------------------------------------------------------------


def test_the_original_keeps_every_bit_and_so_do_modes_images_and_random_numbers():
    case = ordinary()
    images = case.images(24)
    kept = [*case.original.state_dict().values(), images]
    before = [tensor.clone() for tensor in kept]
    case.original.train()
    case.original[4].eval()
    case.small.train()
    case.small[10].eval()
    modes = [m.training for model in (case.original, case.small) for m in model.modules()]
    state = torch.get_rng_state()
    case.solve(images.split(10))
    assert all(torch.equal(a, b) for a, b in zip(before, kept, strict=True))
    assert [m.training for model in (case.original, case.small) for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in (*case.original.parameters(), *case.small.parameters()))


def test_parameters_stay_the_same_objects():
    """An optimizer that holds them goes on."""
    case = ordinary()
    before = [(id(tensor), tensor.data_ptr()) for tensor in (*case.small.parameters(), *case.small.buffers())]
    case.solve()
    assert before == [(id(tensor), tensor.data_ptr()) for tensor in (*case.small.parameters(), *case.small.buffers())]


def test_train_mode_makes_no_difference():
    one, other = ordinary(), ordinary()
    images = one.images(24)
    other.small.train()
    other.original.train()
    one.solve([images])
    other.solve([images])
    for a, b in zip(one.small.state_dict().values(), other.small.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("at", [0, 1, 3])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_interrupted_everything_is_as_before(at, error):
    case = ordinary()
    case.small.train()
    before = {name: tensor.clone() for name, tensor in case.small.state_dict().items()}

    def progress(done: int, _: int) -> None:
        if done == at:
            raise error

    with pytest.raises(error):
        case.solve(progress=progress)
    assert all(torch.equal(before[name], tensor) for name, tensor in case.small.state_dict().items())
    assert all(module.training for module in case.small.modules())
    assert not any(module.training for module in case.original.modules())


def test_progress_counts_to_the_number_of_layers():
    seen: list[tuple[int, int]] = []
    found = ordinary().solve(progress=lambda *at: seen.append(at))
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert [layer.layer for layer in found.layers] == ["3", "8", "11"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_in_any_precision_the_output_comes_nearer(dtype):
    case = ordinary(dtype=dtype)
    x = case.images(32)
    before = case.apart(x[3::4])
    found = case.solve([x])
    assert all(tensor.dtype in (dtype, torch.int64) for tensor in case.small.state_dict().values())
    assert all(torch.isfinite(tensor).all() for tensor in case.small.state_dict().values())
    assert case.apart(x[3::4]) < before
    assert found.after < found.before


def test_channels_last_stays_channels_last():
    case = ordinary(dtype=torch.float32)
    other = ordinary(dtype=torch.float32)
    other.original.to(memory_format=torch.channels_last)
    other.small.to(memory_format=torch.channels_last)
    x = case.images(24)
    case.solve([x])
    other.solve([x.to(memory_format=torch.channels_last)])
    assert other.small[3].weight.is_contiguous(memory_format=torch.channels_last)
    for one, two in zip(case.small.state_dict().values(), other.small.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_large_numbers_do_not_overflow():
    case = Case(nn.Sequential(mixed_maker(), Conv(8, 4, 1, bias=False)), without("0", 4, 5, 6, 7), torch.float32)
    case.original[0].bias.data.zero_()
    case.small[0].bias.data.zero_()
    x = 1e25 * case.images(64)
    before = case.apart(x)
    found = case.solve([x])
    assert found.after < 1e-6 * found.before < math.inf
    assert case.apart(x) < 1e-6 * before


# --- plans --------------------------------------------------------------------------------------------------------


def test_a_plan_that_removes_nothing_solves_nothing():
    case = Case(nn.Sequential(Conv(3, 8, 1), Conv(8, 4, 1)), lambda graph: Plan(graph.fingerprint, {}))
    before = [p.clone() for p in case.small.parameters()]
    assert case.solve() == Recovered((), 0.0, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, case.small.parameters(), strict=True))


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = Conv(3, 8, 3), Conv(8, 4, 1)
        self.first = nn.Sequential(Conv(8, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), Conv(6, 8, 1), nn.BatchNorm2d(8))
        self.second = nn.Sequential(Conv(8, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), Conv(6, 8, 1), nn.BatchNorm2d(8))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.first(x))
        return self.head(F.relu(x + self.second(x)))


def test_emptied_branches_are_passed_by():
    model = Blocks()
    randomize(model)
    case = Case(model, lambda graph: Plan(graph.fingerprint, {
        **without("stem", 0, 1)(graph).removed, **without("first.0", *range(6))(graph).removed
    }))  # fmt: skip
    assert case.small.first[0].weight.numel() == 0
    x = case.images(16)
    before = case.apart(x)
    found = case.solve([case.images(100)])
    assert [layer.layer for layer in found.layers] == ["second.0", "second.3", "head"]
    assert case.apart(x) < before


def test_a_target_may_empty_branches():
    model = Blocks()
    randomize(model)
    target = Target(pruning_ratio=0.3, per_layer={"first.0": 1.0}, min_channels=0)
    case = Case(model, lambda graph: allocate(graph, score(model, graph, "l1"), target))
    assert any(len(gone) == 6 for gone in case.plan.removed.values())
    found = case.solve([case.images(100)])
    assert found.after <= found.before
    assert all(torch.isfinite(tensor).all() for tensor in case.small.state_dict().values())


def test_a_reader_whose_weight_is_computed_is_named():
    model = Net(
        lambda n, x: n.c(F.conv2d(n.a(x), n.b.weight * 2).relu()), a=Conv(3, 8, 1), b=Conv(8, 6, 1), c=Conv(6, 4, 1)
    )
    case = Case(model, without("a", 0, 1))
    old = case.small.b.weight.clone()
    found = case.solve()
    assert [layer.layer for layer in found.layers if "computed" in layer.why_kept] == ["b"]
    assert "b keeps its weights: its weight is computed" in str(found)
    assert torch.equal(case.small.b.weight, old)


@pytest.mark.parametrize("wrapped", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_layers_with_computed_weights_on_the_way_are_passed_over(wrapped):
    model = nn.Sequential(Conv(3, 8, 1), Conv(8, 8, 1), wrapped(Conv(8, 6, 1)), nn.ReLU(), Conv(6, 4, 1))
    case = Case(model, without("0", 0, 1))
    before = {name: tensor.clone() for name, tensor in case.small[2].state_dict().items()}
    found = case.solve()
    assert [layer.layer for layer in found.layers] == ["1", "4"]
    assert all(torch.equal(before[name], tensor) for name, tensor in case.small[2].state_dict().items())


def test_a_reader_used_twice_is_named_and_others_are_solved():
    model = Net(lambda n, x: n.c(n.b(n.b(n.a(x)).relu())), a=Conv(3, 8, 1), b=Conv(8, 8, 1), c=Conv(8, 4, 1))
    case = Case(model, cut(2))
    old = case.small.b.weight.clone()
    found = case.solve()
    assert [layer.layer for layer in found.layers if "more than once" in layer.why_kept] == ["b"]
    assert torch.equal(case.small.b.weight, old)
    assert "c" in [layer.layer for layer in found.layers if not layer.why_kept]


def test_a_layer_with_too_many_inputs_is_named(monkeypatch):
    monkeypatch.setattr(importlib.import_module("slimcnn.recovery.least_squares"), "MOST_INPUTS", 8)
    case = Case(nn.Sequential(Conv(3, 4, 1), Conv(4, 8, 3), nn.ReLU(), Conv(8, 4, 1)), without("0", 0))
    found = case.solve()
    assert [(layer.layer, layer.why_kept) for layer in found.layers if layer.why_kept] == [
        ("1", "27 inputs are more than 8")
    ]


def test_what_was_found_reads_as_a_sentence():
    found = ordinary().solve()
    assert str(found).startswith("refitted 3 layers; output MSE on held-out images ")


def test_fewer_positions_than_there_are_will_do(monkeypatch):
    """On a quarter of the rows the weights are nearly those of all."""
    full, part = ordinary(), ordinary()
    images = full.images(400)
    full.solve([images])
    monkeypatch.setattr(importlib.import_module("slimcnn.linear.im2col"), "ROWS", 900)
    part.solve([images])
    assert not torch.equal(full.small[3].weight, part.small[3].weight)
    x = full.images(64)
    assert part.apart(x) < 2 * full.apart(x)


def test_a_transposed_layer_in_groups_makes_those_that_are_left():
    """Its groups lose the same channels: 0 and 3 of either go in, and 1 of either comes out no more."""
    maker = mixing(Conv(3, 8, 3, padding=1), {0: (1, 2), 3: (1, 2), 4: (5, 6), 7: (5, 6)})
    reader = nn.ConvTranspose2d(8, 6, 2, 2, groups=2)
    model = Net(lambda n, x: n.c(n.b(n.a(x)).relu()), a=maker, b=reader, c=Conv(6, 4, 1))
    case = Case(model, lambda graph: Plan(graph.fingerprint, {"a": (0, 3), "b": (1,)}))
    found = case.solve([case.images(200)])
    assert found.layers[0].after < 1e-6 * found.layers[0].before
    x = case.images(4)
    made = case.original.b(case.original.a(x))[:, [0, 2, 3, 5]]
    torch.testing.assert_close(case.small.b(case.small.a(x)), made, rtol=0, atol=1e-4)


class Tokens(nn.Module):
    """A linear layer, and attention, on the places of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Conv(3, 8, 1), nn.Linear(8, 6)
        self.mix = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.b(self.a(x).flatten(2).transpose(1, 2))
        mixed: Tensor = self.mix(tokens, tokens, tokens, need_weights=False)[0]
        return mixed.mean(1)


def test_a_linear_layer_on_tokens_is_solved():
    case = Case(Tokens(), without("a", 1, 4))
    found = case.solve(case.images(40).split(7))
    solved = {layer.layer: layer for layer in found.layers}
    assert solved["b"].after < solved["b"].before
    assert found.after <= found.before


def test_a_weight_bias_or_norm_that_others_use_too_is_not_changed():
    model = Net(lambda n, x: n.c(F.conv2d(n.b(n.a(x)).relu(), n.b.weight.transpose(0, 1))),
                a=Conv(3, 8, 1), b=Conv(8, 5, 1), c=Conv(8, 4, 1))  # fmt: skip
    case = Case(model, without("a", 1))
    weight = case.small.b.weight.clone()
    found = case.solve()
    assert "more than once" in next(layer.why_kept for layer in found.layers if layer.layer == "b")
    assert torch.equal(weight, case.small.b.weight)


def test_a_network_that_writes_into_its_input_does_not_reach_the_users_images():
    def run(n: Net, x: Tensor) -> Tensor:
        x.mul_(2).sub_(1)
        return n.b(n.a(x))

    case = Case(Net(run, a=Conv(3, 8, 1), b=Conv(8, 5, 1)), without("a", 1, 2))
    x = case.images(16)
    kept = x.clone()
    case.solve([x])
    assert torch.equal(x, kept)


def test_numbers_that_code_reads_are_the_true_ones():
    def run(n: Net, x: Tensor) -> Tensor:
        y = n.a(x)
        scale = max(y.amax((1, 2, 3)).tolist())
        return n.c(n.b(y).relu()) * scale

    case = Case(Net(run, a=Conv(3, 8, 1), b=Conv(8, 5, 1), c=Conv(5, 4, 1)), without("b", 1, 2))
    before = case.apart(x := case.images(64))
    case.solve([x])
    assert case.apart(x) < before


def test_when_a_whole_branch_went_those_behind_make_up_for_it():
    def run(n: Net, x: Tensor) -> Tensor:
        y = n.stem(x)
        y = y + n.branch(y)
        return n.last(y.relu())

    branch = nn.Sequential(Conv(6, 4, 1), nn.ReLU(), Conv(4, 6, 1))
    case = Case(Net(run, stem=Conv(3, 6, 1), branch=branch, last=Conv(6, 3, 1)), without("branch.0", 0, 1, 2, 3))
    found = case.solve([case.images(64)])
    assert found.after < 0.9 * found.before
