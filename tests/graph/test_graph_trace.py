"""What goes into trace(): any network, any input; and what comes back unharmed: the user's network."""

from __future__ import annotations

import gc
from contextlib import suppress
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from traced import half_of_everything, image, reasons, sizes, traced

from at_hand import Net, randomize
from slimcnn.errors import ModelError
from slimcnn.graph import trace
from slimcnn.graph.tracer import Tracer

Conv = nn.Conv2d


def plain() -> nn.Sequential:
    return nn.Sequential(Conv(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5))


# --- the user's network stays as it is ---------------------------------------------------------------------------


def everything_of(model: nn.Module) -> dict[str, Any]:
    """What a user could notice of a network, bit by bit."""
    tensors = {
        name: (id(t), t.clone(), t.requires_grad, t.grad) for name, t in model.state_dict(keep_vars=True).items()
    }
    modules = {}
    for name, module in model.named_modules():
        hooks = [list(store) for key, store in vars(module).items() if key.endswith("_hooks")]
        plain_values = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str | tuple)}
        modules[name] = (id(module), module.training, hooks, plain_values)
    return {"tensors": tensors, "modules": modules}


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before["modules"] == after["modules"]
    assert before["tensors"].keys() == after["tensors"].keys()
    for name, (identity, values, flag, grad) in before["tensors"].items():
        assert (identity, flag) == (after["tensors"][name][0], after["tensors"][name][2])
        assert grad is after["tensors"][name][3]
        assert torch.equal(values, after["tensors"][name][1])


def guest() -> nn.Module:
    """A network with everything that could be disturbed."""
    model = nn.Sequential(Conv(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), Conv(8, 6, 1), nn.BatchNorm2d(6),
                          nn.utils.parametrizations.spectral_norm(Conv(6, 6, 1)), Conv(6, 5, 1))  # fmt: skip
    randomize(model)
    model.train()
    model[1].eval()
    model[4].weight.requires_grad_(False)
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    model.register_buffer("fleeting", torch.rand(3), persistent=False)
    model[2].register_forward_hook(lambda module, inputs, output: None)
    return model


def test_tracing_and_pruning_leave_the_users_network_bit_identical() -> None:
    model = guest()
    example = torch.randn(1, 3, 8, 8)
    given = example.clone()
    before = everything_of(model)
    half_of_everything(model, example)
    assert_same(before, everything_of(model))
    assert torch.equal(example, given)
    assert model.training
    assert not model[1].training


def test_a_trace_that_fails_leaves_the_users_network_bit_identical() -> None:
    model = guest()
    before = everything_of(model)
    for example in (image(channels=4), torch.zeros(3)):
        with pytest.raises(ModelError):
            trace(model, example)
    assert_same(before, everything_of(model))


@pytest.mark.parametrize("example", [image(), image(channels=4)])
def test_tracing_leaves_no_hook_and_no_mode_behind(example: Tensor) -> None:
    from torch.nn.modules import module

    before = (len(module._global_forward_hooks), len(module._global_forward_pre_hooks), torch.is_grad_enabled())
    fused = torch.backends.mha.get_fastpath_enabled()
    with suppress(ModelError):
        trace(plain(), example)
    assert (len(module._global_forward_hooks), len(module._global_forward_pre_hooks), torch.is_grad_enabled()) == before
    assert torch.backends.mha.get_fastpath_enabled() == fused


def test_tracing_does_not_touch_the_random_numbers_of_the_user() -> None:
    model = plain()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    half_of_everything(model)
    assert torch.equal(torch.rand(3), expected)


# --- Python in the forward pass ----------------------------------------------------------------------------------


def test_branches_on_shapes_are_followed_as_the_example_takes_them() -> None:
    def run(n: Net, x: Tensor) -> Tensor:
        y = n.a(x)
        if y.shape[2] > 4:
            y = n.big(y)
        return n.b(y)

    net = Net(run, a=Conv(3, 8, 1), big=Conv(8, 6, 3), b=Conv(6, 5, 1))
    assert sizes(traced(net)) == {"a": 8, "big": 6}


def test_branches_on_values_get_real_values() -> None:
    def run(n: Net, x: Tensor) -> Tensor:
        y = F.relu(n.a(x))
        y = n.one(y) if float(n.probe(y).sum()) > 0 else n.two(y)
        return n.b(y)

    probe = Conv(8, 1, 1)
    nn.init.constant_(probe.weight, 0.0)
    for bias, taken in ((1.0, "one"), (-1.0, "two")):
        nn.init.constant_(probe.bias, bias)
        net = Net(run, a=Conv(3, 8, 1), probe=probe, one=Conv(8, 6, 1), two=Conv(8, 6, 1), b=Conv(6, 5, 1))
        graph = trace(net, torch.rand(1, 3, 8, 8))
        assert taken in {contraction.module for contraction in graph.contractions}
        assert sizes(graph) == {}, "the other branch would be left behind"


def test_loops_whose_length_is_a_number_in_the_network_are_followed() -> None:
    def run(n: Net, x: Tensor) -> Tensor:
        y = n.a(x)
        for _ in range(int(n.times)):
            y = F.relu(n.again(y))
        return n.b(y)

    net = Net(run, a=Conv(3, 8, 1), again=Conv(8, 8, 1), b=Conv(8, 5, 1))
    net.register_buffer("times", torch.tensor(3))
    assert sizes(traced(net)) == {"a": 8}


def test_a_tensor_kept_on_the_network_by_an_earlier_run_does_no_harm() -> None:
    def run(n: Net, x: Tensor) -> Tensor:
        n.kept = n.a(x)
        if n.ones is None:
            n.ones = torch.ones(1, n.kept.shape[1], 1, 1, dtype=x.dtype)
        return n.b(n.kept * n.ones)

    net = Net(run, a=Conv(3, 8, 1), b=Conv(8, 5, 1), ones=None)
    assert sizes(traced(net)) == {"a": 8}
    assert net.ones is None
    net(image())
    assert net.kept.grad_fn is not None
    assert sizes(trace(net, image())) == {}, "now the size is written on the network"
    assert net.kept.grad_fn is not None


def test_a_buffer_made_in_the_first_run_does_no_harm() -> None:
    def run(n: Net, x: Tensor) -> Tensor:
        if "scale" not in n._buffers:
            n.register_buffer("scale", torch.full((x.shape[1], 1, 1), 0.5, dtype=x.dtype))
        return n.b(n.a(x * n.scale))

    assert sizes(traced(Net(run, a=Conv(3, 8, 1), b=Conv(8, 5, 1)))) == {"a": 8}


def test_dropout_in_a_network_changes_nothing() -> None:
    net = nn.Sequential(Conv(3, 8, 1), nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), Conv(8, 5, 1))
    assert sizes(traced(net)) == {"0": 8}


def test_hooks_that_change_the_output_are_part_of_the_network() -> None:
    net = nn.Sequential(Conv(3, 8, 1), nn.ReLU(), Conv(8, 5, 1))
    net[1].register_forward_hook(lambda module, inputs, output: output * output.mean(1, keepdim=True))
    assert reasons(traced(net)) == {"0": {"reduced over its channels"}}


def test_gradients_switched_on_inside_change_nothing() -> None:
    def run(n: Net, x: Tensor) -> Tensor:
        with torch.enable_grad():
            return n.b(torch.utils.checkpoint.checkpoint(n.a, x, use_reentrant=False))

    assert sizes(traced(Net(run, a=Conv(3, 8, 1), b=Conv(8, 5, 1)))) == {"a": 8}


def test_heads_that_run_in_training_only_are_kept_fitting() -> None:
    def run(n: Net, x: Tensor) -> Any:
        y = F.relu(n.norm(n.a(x)))
        return (n.b(y), n.head(y)) if n.training else n.b(y)

    head = nn.Sequential(Conv(8, 6, 1), nn.ReLU(), Conv(6, 5, 1))
    net = Net(run, a=Conv(3, 8, 1), norm=nn.BatchNorm2d(8), b=Conv(8, 5, 1), head=head)
    graph = traced(net)
    assert sizes(graph) == {"a": 8}
    assert reasons(graph) == {"head.0": {"runs in training mode only"}}, "head.2 makes an output"
    assert graph.macs() == 64 * (3 * 8 + 8 * 5), "what does not run costs nothing"
    small = half_of_everything(net).train()
    assert [tuple(y.shape) for y in small(torch.rand(2, 3, 8, 8))] == [(2, 5, 8, 8), (2, 5, 8, 8)]


# --- names and identity ------------------------------------------------------------------------------------------


def test_groups_are_named_after_the_first_layer_that_makes_them_in_the_order_of_the_run() -> None:
    net = Net(lambda n, x: n.z(n.m(n.q(x)) + n.q(x)), z=Conv(8, 5, 1), m=Conv(8, 8, 1), q=Conv(3, 8, 1))
    assert list(sizes(traced(net))) == ["q"]


def test_parts_of_a_layer_are_named_by_their_positions() -> None:
    def run(n: Net, x: Tensor) -> Tensor:
        one, two = n.a(x).split([n.b.in_channels, n.c.in_channels], 1)
        return n.b(one) + n.c(two)

    net = Net(run, a=Conv(3, 14, 1), b=Conv(4, 5, 1), c=Conv(10, 5, 1))
    assert sizes(traced(net)) == {"a[0-3]": 4, "a[4-13]": 10}


def test_names_are_unique_and_find_their_group() -> None:
    graph = traced(nn.Sequential(Conv(3, 8, 1), nn.ReLU(), Conv(8, 6, 1), nn.ReLU(), Conv(6, 5, 1)))
    assert [graph[name].channels for name in ("0", "2")] == [8, 6]
    assert [graph.index(group.name) for group in graph.groups] == [0, 1]


def test_the_fingerprint_knows_structure_and_not_weights_or_input_size() -> None:
    def network(width: int = 8, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(Conv(3, width, 1), nn.ReLU(), Conv(width, 5, 1))

    same = {trace(network(seed=seed), image(size=size)).fingerprint for seed in (0, 1) for size in (4, 8)}
    assert len(same) == 1
    assert trace(network(width=7), image()).fingerprint not in same
    with_softmax = nn.Sequential(*network()[:2], nn.Softmax(1), network()[2])
    assert trace(with_softmax, image()).fingerprint not in same


def test_a_graph_can_be_traced_again_after_a_cut() -> None:
    net = nn.Sequential(
        Conv(3, 16, 1), nn.BatchNorm2d(16), Conv(16, 16, 3, groups=16), Conv(16, 16, 1, groups=2), Conv(16, 5, 1)
    )
    once = half_of_everything(net)
    twice = half_of_everything(once)
    assert (once[2].groups, twice[2].groups, twice[4].in_channels) == (8, 4, 4)


def test_a_trace_keeps_no_run_in_memory_until_the_next_collection() -> None:
    net = plain()
    gc.collect()
    gc.disable()
    try:
        before = [type(one) for one in gc.get_objects()]
        graph = trace(net, image())
        after = [type(one) for one in gc.get_objects()]
    finally:
        gc.enable()
    assert graph.groups
    for kind in (Tracer, nn.BatchNorm2d):  # the run, and the copies of the network
        assert after.count(kind) == before.count(kind)
