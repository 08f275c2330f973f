"""The law: prune(model) and mask(model) are the same function, for every network and every criterion.

The masked network is the product's own; a second oracle, which knows nothing of graph or mask, sets channels to zero
in what the consumers read, by hooks on the user's network and a table written by hand.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from law_networks import NETWORKS, REGISTERED
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from at_hand import randomize
from slimcnn.errors import CriterionError, ModelError
from slimcnn.graph import ChannelGraph, trace
from slimcnn.graph.execution import outputs_of
from slimcnn.layers.relating import relating_of
from slimcnn.pruning import Plan, Target, allocate, criteria, mask, prune, score, verify
from slimcnn.rewriting import insert_relations

ALL = {**NETWORKS, **REGISTERED}
CRITERIA = [entry.name for entry in criteria]
"""What a criterion needs, it declares: a new one is tested here without an edit."""


@cache
def prepared(name: str) -> tuple[nn.Module, ChannelGraph]:
    torch.manual_seed(0)
    model = ALL[name]()
    randomize(model)
    return model, trace(model, torch.zeros(1, 3, 32, 32) if name in REGISTERED else torch.zeros(1, 3, 8, 8))


def labeled(model: nn.Module, graph: ChannelGraph) -> list[tuple[Tensor, Tensor]]:
    """Two batches with labels of whatever shape the network's first output asks for."""
    generator = torch.Generator().manual_seed(4)
    batches = []
    for _ in range(2):
        x = torch.randn(2, *graph.example.shape[1:], generator=generator)
        with torch.no_grad():
            output = outputs_of(copy.deepcopy(model).eval()(x))[0]
        batches.append((x, torch.randint(output.size(1), (2, *output.shape[2:]), generator=generator)))
    return batches


def assert_trains(small: nn.Module, example: Tensor) -> None:
    """One step in training mode changes every weight that it reads, and nothing breaks."""
    small = copy.deepcopy(small).train()
    outputs = outputs_of(small(torch.randn(4, *example.shape[1:])))
    sum(output.square().mean() for output in outputs).backward()  # type: ignore[union-attr]
    gradients = [p.grad for p in small.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", [*NETWORKS, "resnet8", "resnet20 B", "vgg11 thin"])
def test_the_pruned_network_is_the_masked_network(name: str, criterion: str) -> None:
    model, graph = prepared(name)
    needs = criteria[criterion].value().needs
    if needs == "relations":
        with suppress(ModelError):  # no norm behind a convolution
            model = insert_relations(model, graph.example)
            graph = trace(model, graph.example)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    data = labeled(model, graph) if needs in ("contributions", "readings") else None
    there = {"scales": any(group.norms for group in graph.groups), "relations": bool(relating_of(model))}
    if not there.get(needs, True):
        with pytest.raises(CriterionError):
            score(model, graph, criterion, data)
        return
    scores = score(model, graph, criterion, data)
    plan = allocate(graph, scores, Target(pruning_ratio=0.4))
    small = prune(model, graph, plan, verify=False)
    masked = mask(model, graph, plan)
    verdict = verify(masked, small, graph, plan)
    assert verdict.equal, str(verdict)
    assert verdict.dtype == "float64"
    assert verdict.error < 1e-9
    assert plan.counts(graph).sum() > 0
    assert sum(p.numel() for p in small.parameters()) == graph.params(plan.counts(graph)) < graph.params()
    x = torch.randn(2, *graph.example.shape[1:])
    with torch.no_grad():
        shapes = [[tuple(y.shape) for y in outputs_of(net.eval()(x))] for net in (copy.deepcopy(model), small)]
    assert shapes[0] == shapes[1]
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ALL)
def test_the_law_holds_at_every_rate_and_the_result_trains(name: str) -> None:
    model, graph = prepared(name)
    example = graph.example
    for seed, target in enumerate(
        (Target(pruning_ratio=0.2), Target(pruning_ratio=0.5, scope="global"), Target(pruning_ratio=0.95))
    ):
        plan = allocate(graph, score(model, graph, "random", seed=seed), target)
        small = prune(model, graph, plan)
        assert_trains(small, example)
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            small.eval()(example)
        assert graph.macs(plan.counts(graph)) == counter.get_total_flops() // 2


@pytest.mark.parametrize("name", [*NETWORKS, "resnet8"])
def test_every_bundle_can_go_alone_down_to_its_last_channels(name: str) -> None:
    model, graph = prepared(name)
    for bundle in graph.bundles:
        groups = [graph.groups[i] for i in bundle]
        least = max(-(-group.least // len(group.parts)) for group in groups)
        size = len(groups[0].parts[0])
        for gone in (slice(0, 1), slice(0, size - least), slice(least, size)):
            removed = {group.name: tuple(c for part in group.parts for c in part[gone].tolist()) for group in groups}
            prune(model, graph, Plan(graph.fingerprint, removed))


# --- an oracle that shares no code with mask -----------------------------------------------------------------------

Positions = Callable[[list[int]], list[int]]


def same(channels: list[int]) -> list[int]:
    return channels


def shifted(by: int) -> Positions:
    return lambda channels: [c + by for c in channels]


def twice(half: int) -> Positions:
    return lambda channels: channels + [c + half for c in channels]


def blocks(size: int) -> Positions:
    return lambda channels: [c * size + i for c in channels for i in range(size)]


WIRING: dict[str, dict[str, list[tuple[str, Positions]]]] = {
    "plain": {"0.0": [("1.0", same)], "1.0": [("3.0", same)], "3.0": [("4.2", same)]},
    "without_batch_norm": {"0": [("2", same)], "2": [("5", same)], "5": [("6.2", same)]},
    "residual": {
        "stem.0": [("one.0", same), ("three.0", same), ("shortcut", same)], "one.0": [("two.0", same)],
        "three.0": [("four.0", same)], "shortcut": [("head.2", same)],
    },
    "concatenation": {
        "one.0": [("two.0", shifted(3)), ("four.0", shifted(3)), ("three.0", shifted(3))],
        "two.0": [("four.0", shifted(9)), ("three.0", shifted(9))], "four.0": [("three.0", shifted(17))],
        "three.0": [("head.2", same)],
    },
    "split_and_chunk": {
        "stem.0[0-5]": [("mix.0", shifted(6))], "stem.0[6-11]": [("one.0", same), ("mix.0", same)],
        "mix.0": [("head.2", same)],
    },
    "grouped": {
        "0.0": [("1.0", same)], "1.0": [("2.0", same)], "2.0": [("3.0", same)], "3.0": [("4.2", same)],
    },
    "depthwise": {
        "0.0": [("1.0", same)], "1.0": [("3", same)], "3": [("5.0", blocks(2))], "5.0": [("6.2", same)],
    },
    "squeeze_and_excitation": {
        "stem.0": [("gate.1", same), ("one.0", same), ("spatial", same)], "gate.1": [("gate.3", same)],
        "one.0": [("head.2", same)],
    },
    "flatten_into_linear": {"0.0": [("3", blocks(4))], "3": [("6", same)]},
    "transposed": {"0.0": [("1.0", same)], "1.0": [("2", twice(4))], "2": [("5", twice(6))]},
    "encoder_and_decoder": {"down1.0": [("down2.0", same), ("join.0", same)], "down2.0": [("join.0", shifted(8))],
                            "join.0": [("out", same)]},
    "shared_modules": {"stem.0": [("again.0", same), ("left.0", same), ("right.0", same)], "left.0": [("both.0", same)],
                       "both.0": [("head.2", same)]},
    "pixel_shuffle": {"0.0": [("2.0", same)], "2.0": [("4.0", blocks(4))], "4.0": [("5.2", same)]},
    "gated": {"0.0": [("1", same)], "1": [("3.0", same)], "3.0": [("4.2", same)]},
    "vgg11 thin, deep head": {
        "features.0": [("features.4", same)], "features.4": [("features.8", same)],
        "features.25": [("classifier.0", same)], "classifier.0": [("classifier.3", same)],
    },
}  # fmt: skip
"""Network → group → the layers that read it, and at which of their inputs."""


def zeroing(positions: list[int]) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    def hook(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = inputs
        keep = torch.ones(x.size(1), dtype=x.dtype)
        keep[positions] = 0
        return (x * keep.view(1, -1, *[1] * (x.dim() - 2)),)

    return hook


@pytest.mark.parametrize("name", WIRING)
def test_the_pruned_network_is_the_users_network_with_zeros_in_front_of_the_readers(name: str) -> None:
    model, graph = prepared(name)
    plan = allocate(graph, score(model, graph, "random", seed=3), Target(pruning_ratio=0.4))
    plan = Plan(plan.network, {group: plan.removed[group] for group in WIRING[name] if group in plan.removed})
    assert len(plan.removed) == len(WIRING[name]) > 1
    zeroed = copy.deepcopy(model).double().eval()
    for group, readers in WIRING[name].items():
        for reader, positions in readers:
            zeroed.get_submodule(reader).register_forward_pre_hook(zeroing(positions(list(plan.removed[group]))))
    small = prune(model, graph, plan).double().eval()
    x = torch.randn(3, *graph.example.shape[1:], dtype=torch.float64)
    with torch.no_grad():
        expected, found, whole = zeroed(x), small(x), copy.deepcopy(model).double().eval()(x)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-9
    assert float((whole - expected).abs().max()) > 1e-6, "zeros change nothing: the test would prove nothing"


def test_the_oracle_sees_a_mistake() -> None:
    model, graph = prepared("residual")
    plan = Plan(graph.fingerprint, {"one.0": (1, 4)})
    small = prune(model, graph, plan).double().eval()
    zeroed = copy.deepcopy(model).double().eval()
    zeroed.two[0].register_forward_pre_hook(zeroing([1, 5]))
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    assert not torch.allclose(zeroed(x), small(x))


def test_masked_channels_stay_masked_while_training() -> None:
    """Through ReLU no gradient reaches what would bring a removed channel back."""
    model, graph = prepared("plain")
    plan = Plan(graph.fingerprint, {"0.0": (0, 2), "1.0": (5,)})
    masked = mask(model, graph, plan)
    optimizer = torch.optim.SGD(masked.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(masked.train()(torch.randn(4, 3, 8, 8)), torch.tensor([0, 1, 2, 3])).backward()
        optimizer.step()
    small = prune(masked, graph, plan)
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(masked.eval()(x), small.eval()(x), atol=1e-5)
