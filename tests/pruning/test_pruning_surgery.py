"""prune, mask, and the check between them, which must not be a check that always says yes."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from networks_to_prune import Block, image, plain, residual
from torch import Tensor, nn

import slimcnn
from slimcnn.errors import ModelError, NotEqual, WeightsError
from slimcnn.graph import ChannelGraph, trace
from slimcnn.pruning import Plan, Target, allocate, mask, prune, score, verify
from slimcnn.pruning.verify import Copies, check_equal, compare


def case(model: nn.Module, example: Any = None) -> tuple[nn.Module, nn.Module, ChannelGraph, Plan]:
    """A masked and a pruned network, with graph and plan."""
    graph = trace(model, image() if example is None else example)
    plan = allocate(graph, score(model, graph, "random"), Target(pruning_ratio=0.5))
    return mask(model, graph, plan), prune(model, graph, plan, verify=False), graph, plan


# --- mask ----------------------------------------------------------------------------------------------------------


def test_mask_zeroes_what_makes_and_what_reads_a_channel_and_nothing_else() -> None:
    model = plain(4, 4)
    graph = trace(model, image())
    masked = mask(model, graph, Plan(graph.fingerprint, {"0": (1, 3)}))
    for name, axis in (("0.weight", 0), ("1.weight", 0), ("1.bias", 0), ("3.weight", 1)):
        tensor, original = masked.get_parameter(name), model.get_parameter(name)
        assert not tensor.index_select(axis, torch.tensor([1, 3])).any()
        assert torch.equal(
            tensor.index_select(axis, torch.tensor([0, 2])), original.index_select(axis, torch.tensor([0, 2]))
        )
    for name in ("4.weight", "8.weight", "8.bias"):
        assert torch.equal(masked.get_parameter(name), model.get_parameter(name))
    assert masked[0].weight.shape == model[0].weight.shape


def test_prune_and_mask_change_only_their_copy() -> None:
    model = plain(8, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masked, small, _, _ = case(model)
    for other in (masked, small):
        for tensor in other.parameters():
            tensor.data.add_(1)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_kept_filters_are_the_users_own_numbers() -> None:
    model = plain(6, 6)
    graph = trace(model, image())
    small = prune(model, graph, Plan(graph.fingerprint, {"0": (0, 4), "3": (5,)}))
    assert torch.equal(small[0].weight, model[0].weight[[1, 2, 3, 5]])
    assert torch.equal(small[3].weight, model[3].weight[:5][:, [1, 2, 3, 5]])
    assert torch.equal(small[1].running_mean, model[1].running_mean[[1, 2, 3, 5]])


def test_an_empty_plan_gives_the_same_network() -> None:
    model = plain(6, 6)
    graph = trace(model, image())
    small = prune(model, graph, Plan(graph.fingerprint, {}))
    assert small is not model
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), small.parameters(), strict=True))


def test_the_pruned_network_trains() -> None:
    _, small, _, _ = case(residual(12, 18))
    optimizer = torch.optim.SGD(small.parameters(), lr=0.05)
    x, y = torch.randn(8, 3, 4, 4), torch.randint(5, (8,))
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = F.cross_entropy(small.train()(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(p.grad is not None for p in small.parameters())
    assert losses[-1] < losses[0]


# --- the check sees what is wrong, and where -------------------------------------------------------------------------


def test_equal_networks_are_called_equal_with_the_error() -> None:
    masked, small, graph, plan = case(plain(8, 8))
    verdict = verify(masked, small, graph, plan)
    assert verdict.equal
    assert verdict.error < 1e-12
    assert str(verdict).startswith("equal: pruned and masked network match")
    assert check_equal(Copies(masked), small, graph, plan) == verdict


class CountedCopies(Copies):
    """Copies that count how many of them are in memory when another is made."""

    made: ClassVar[list[weakref.ref[nn.Module]]] = []
    most = 0

    def in_type(self, dtype: torch.dtype) -> nn.Module:
        CountedCopies.most = max(CountedCopies.most, sum(copied() is not None for copied in self.made))
        self.made.append(weakref.ref(found := super().in_type(dtype)))
        return found


@pytest.mark.parametrize("right", [True, False])
def test_the_check_never_holds_two_copies_at_once(right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CountedCopies, "made", [])
    monkeypatch.setattr(CountedCopies, "most", 0)
    masked, small, graph, plan = case(plain(8, 8))
    if not right:
        small[3].weight.data = small[3].weight.data.roll(1, 1)
    assert compare(CountedCopies(masked), CountedCopies(small), graph, plan).equal is right
    assert len(CountedCopies.made) == (2 if right else 5)  # if not: once more with another seed, and two by layers
    assert CountedCopies.most == 0


@pytest.mark.parametrize("layer", ["0", "3", "6"])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_numbers_in_the_wrong_place_are_found_and_the_layer_is_named(layer: str, name: str) -> None:
    norms = [nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()) for _ in range(2)]
    model = nn.Sequential(nn.Conv2d(3, 8, 1), *norms[0], nn.Conv2d(8, 8, 1), *norms[1], nn.Conv2d(8, 5, 1))
    masked, small, graph, plan = case(model)
    parameter = small.get_parameter(f"{layer}.{name}")
    parameter.data = parameter.data.flip(0)
    verdict = verify(masked, small, graph, plan)
    assert not verdict.equal
    assert verdict.layer == layer
    with pytest.raises(NotEqual, match=f"wrong at {layer}: relative error .* protect '{layer}'"):
        check_equal(Copies(masked), small, graph, plan)


def test_a_wrong_choice_of_inputs_is_found_although_it_only_shows_one_layer_on() -> None:
    masked, small, graph, plan = case(plain(8, 8))
    small[3].weight.data = small[3].weight.data.roll(1, 1)
    assert verify(masked, small, graph, plan).layer == "3"


def test_a_mistake_of_one_part_in_a_million_is_found() -> None:
    masked, small, graph, plan = case(plain(8, 8))
    small[1].running_mean[0] += 1e-6
    assert verify(masked, small, graph, plan).layer == "1"


def test_wrong_pads_are_found() -> None:
    masked, small, graph, plan = case(slimcnn.build("resnet20"), torch.zeros(1, 3, 32, 32))
    assert verify(masked, small, graph, plan).equal
    pad = small.layer2[0].shortcut[1]
    pad.front, pad.back = pad.front + 1, pad.back - 1
    verdict = verify(masked, small, graph, plan)
    assert not verdict.equal
    assert verdict.layer == "layer2.1.conv1", "the first layer that reads the sum"


def test_a_network_that_no_longer_runs_is_found_and_the_layer_is_named() -> None:
    masked, small, graph, plan = case(plain(8, 8))
    small[3].weight.data = small[3].weight.data[:, 1:]
    verdict = verify(masked, small, graph, plan)
    assert (verdict.equal, verdict.error, verdict.layer) == (False, float("inf"), "3")
    assert str(verdict).startswith("wrong at 3 or just after it: the pruned network fails: Given groups=1")


def test_an_output_of_another_shape_is_found() -> None:
    masked, small, graph, plan = case(plain(8, 8))
    small[8].weight.data, small[8].bias.data = small[8].weight.data[:4], small[8].bias.data[:4]
    assert not verify(masked, small, graph, plan).equal


def test_prune_refuses_to_hand_over_a_broken_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from slimcnn.pruning import surgery

    def wrong(model: nn.Module, kept: Any, pads: Any) -> None:
        right(
            model,
            {name: {axis: positions - 1 for axis, positions in axes.items()} for name, axes in kept.items()},
            pads,
        )

    right = surgery.shrink
    model = plain(8, 8)
    graph = trace(model, image())
    plan = Plan(graph.fingerprint, {"0": (0, 1)})
    assert prune(model, graph, plan)
    monkeypatch.setattr(surgery, "shrink", wrong)
    with pytest.raises(NotEqual) as caught:
        prune(model, graph, plan)
    assert "\n" not in str(caught.value)
    assert prune(model, graph, plan, verify=False) is not None


def test_the_check_does_not_need_an_interesting_example() -> None:
    """Zeros in, zeros out would hide everything."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.ReLU(), nn.Conv2d(8, 5, 1, bias=False))
    masked, small, graph, plan = case(model, torch.zeros(1, 3, 4, 4))
    assert not masked(graph.example).any()
    small[2].weight.data = small[2].weight.data.flip(1)
    assert not verify(masked, small, graph, plan).equal


# --- networks with a will of their own -----------------------------------------------------------------------------


class Own(nn.Module):
    """A network between whose layers something happens."""

    def __init__(self, between: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor] = lambda y: y) -> None:
        super().__init__()
        self.a, self.c, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 5, 1)
        self.between, self.after = between, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.b(self.between(self.c(torch.relu(self.a(x))))))


@pytest.mark.parametrize(("convert", "dtype"), [(torch.Tensor.float, "float32"), (torch.Tensor.double, "float64")])
def test_a_network_that_converts_is_compared_in_its_own_precision(convert: Any, dtype: str) -> None:
    model = Own(convert).to(getattr(torch, dtype))
    masked, small, graph, plan = case(model, image().to(getattr(torch, dtype)))
    verdict = verify(masked, small, graph, plan)
    assert verdict.equal
    assert verdict.dtype == dtype
    assert dtype in str(verdict)
    small.b.weight.data = small.b.weight.data.flip(1)
    assert verify(masked, small, graph, plan).layer == "b"


def test_a_half_precision_network_is_compared_in_float64() -> None:
    masked, small, graph, plan = case(plain(8, 8).half(), image().half())
    verdict = verify(masked, small, graph, plan)
    assert (verdict.equal, verdict.dtype) == (True, "float64")


def test_random_numbers_for_channels_that_stay_are_no_obstacle() -> None:
    masked, small, graph, plan = case(Own(lambda y: F.dropout(y, 0.5, training=True)))
    assert set(plan.removed) == {"a"}
    assert verify(masked, small, graph, plan).equal


def test_a_network_that_answers_differently_each_time_cannot_be_proven() -> None:
    count = iter(range(1000))
    masked, small, graph, plan = case(Own(lambda y: y, lambda y: y + next(count)))
    with pytest.raises(ModelError, match="output differs between runs"):
        verify(masked, small, graph, plan)


def test_an_output_that_is_not_finite_is_the_weights_fault() -> None:
    model = plain(8, 8)
    graph = trace(model, image())
    plan = Plan(graph.fingerprint, {"0": (0,)})
    model[4].running_var[0] = float("nan")
    with pytest.raises(WeightsError, match="not finite"):
        prune(model, graph, plan)


def test_a_network_that_stopped_running_since_the_trace_says_so() -> None:
    model = Own(lambda y: y)
    graph = trace(model, image())
    plan = Plan(graph.fingerprint, {"a": (0,)})
    model.between = lambda y: y @ torch.ones(3)
    with pytest.raises(ModelError, match="does not run on its example: it failed at c"):
        prune(model, graph, plan)


def test_a_block_pruned_by_hand_is_the_block_pruned_by_plan() -> None:
    """The inner channels of y = x + W2 relu(W1 x) written out with einsum."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), Block(6, 8), nn.Conv2d(6, 5, 1)).double()
    graph = trace(model, image().double())
    small = prune(model, graph, Plan(graph.fingerprint, {"1.one": (0, 3, 6)}))
    x, keep = torch.randn(2, 3, 4, 4, dtype=torch.float64), [1, 2, 4, 5, 7]
    stem, block, head = model
    y = stem(x)
    inner = F.relu(F.conv2d(y, block.one.weight[keep], block.one.bias[keep], padding=1))
    expected = head(y + F.conv2d(inner, block.two.weight[:, keep], block.two.bias, padding=1))
    assert torch.allclose(small(x), expected, rtol=0, atol=1e-12)
