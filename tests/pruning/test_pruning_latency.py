"""A target in milliseconds: removals by price, times of layers, and plans that meet what is predicted."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import slimcnn
from slimcnn import Target
from slimcnn.errors import TargetError, TargetUnreachable
from slimcnn.graph import ChannelGraph
from slimcnn.pruning.latency import LatencyModel, timed_layers
from slimcnn.pruning.tradeoff import worthwhile


def ms_by_macs(model: nn.Module, graph: ChannelGraph, stairs: int = 1) -> LatencyModel:
    """Milliseconds = MACs / 1e6, with channels rounded up to stairs."""
    shapes = {layer.name: layer.output for layer in slimcnn.measure(model, graph.example).layers}
    modules = dict(model.named_modules())

    def time(name: str, outputs: int, inputs: int, groups: int) -> float:
        up = [math.ceil(n / stairs) * stairs for n in (outputs, inputs)]
        kernel = getattr(modules[name], "kernel_size", ())
        return math.prod(kernel) * math.prod(shapes[name][2:]) * up[0] * up[1] / groups / 1e6

    layers = timed_layers(model, graph, time, round_to=stairs)
    whole = sum(layer.whole * layer.calls for layer in layers)
    return LatencyModel(layers, whole, "onnxruntime", 1, 1, round_to=stairs)


@pytest.fixture(scope="module", params=["resnet20", "mobilenet_v2"])
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, ChannelGraph]:
    model = slimcnn.build(request.param).eval()
    return model, slimcnn.trace(model, torch.zeros(1, 3, 32, 32))


def test_times_that_are_proportional_to_macs_predict_exactly_the_macs_of_any_cut(
    network: tuple[nn.Module, ChannelGraph],
) -> None:
    model, graph = network
    predicted = ms_by_macs(model, graph)
    random = np.random.default_rng(0)
    for _ in range(20):
        counts = np.zeros(len(graph.groups), dtype=np.int64)
        for bundle in graph.bundles:
            parts = [len(graph.groups[i].parts) for i in bundle]
            channels = len(graph.groups[bundle[0]].parts[0])
            gone = random.integers(0, channels - channels // 8)  # fewer are timed as an eighth
            counts[list(bundle)] = gone * np.array(parts)
        assert predicted.ms(counts) * 1e6 == pytest.approx(graph.macs(counts), rel=2e-3)  # interpolated between widths


def test_removals_by_price_are_the_cheapest_of_all_combinations_at_every_prefix() -> None:
    random = np.random.default_rng(1)
    for _ in range(30):
        groups = []
        for _ in range(3):
            savings, errors = random.random((2, 4)).cumsum(axis=1)
            groups.append([(n + 1, float(s), float(e)) for n, (s, e) in enumerate(zip(savings, errors, strict=True))])
        every = [
            (sum(p[1] for p in chosen), sum(p[2] for p in chosen))
            for chosen in itertools.product(*[[(0, 0.0, 0.0), *points] for points in groups])
        ]
        at = {
            n: {gone: (saving, error) for gone, saving, error in [(0, 0.0, 0.0), *points]}
            for n, points in enumerate(groups)
        }
        steps = sorted((price, n, to) for n, points in enumerate(groups) for _, to, price in worthwhile(points))
        reached = dict.fromkeys(at, 0)
        for _, n, to in steps:
            reached[n] = to
            saving = sum(at[n][gone][0] for n, gone in reached.items())
            error = sum(at[n][gone][1] for n, gone in reached.items())
            assert error <= min(e for s, e in every if s >= saving - 1e-12) + 1e-9


def scored(model: nn.Module, graph: ChannelGraph) -> slimcnn.Scores:
    images = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return slimcnn.sensitivity(model, graph, slimcnn.score(model, graph, "l2"), [images])


@pytest.fixture(scope="module")
def small() -> tuple[nn.Module, ChannelGraph, slimcnn.Scores]:
    torch.manual_seed(0)
    model = slimcnn.build("resnet20").eval()
    graph = slimcnn.trace(model, torch.zeros(1, 3, 32, 32))
    return model, graph, scored(model, graph)


def by_the_clock(ms: float, **more: object) -> Target:
    return Target(latency_ms=ms, runtime="onnxruntime", scope="sensitivity", min_channels=0, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.8, 0.5, 0.3])
def test_a_plan_meets_the_predicted_milliseconds_and_no_more_than_needed(
    share: float, small: tuple[nn.Module, ChannelGraph, slimcnn.Scores]
) -> None:
    model, graph, scores = small
    times = ms_by_macs(model, graph)
    plan = slimcnn.allocate(graph, scores, by_the_clock(share * times.whole_ms), times)
    counts = plan.counts(graph)
    assert times.ms(counts) <= share * times.whole_ms
    assert times.ms(counts) > (share - 0.05) * times.whole_ms
    assert slimcnn.prune(model, graph, plan)  # exact, or an error


def test_where_time_comes_in_stairs_kept_channels_are_multiples_or_nothing(
    small: tuple[nn.Module, ChannelGraph, slimcnn.Scores],
) -> None:
    model, graph, scores = small
    times = ms_by_macs(model, graph, stairs=8)
    plan = slimcnn.allocate(graph, scores, by_the_clock(0.5 * times.whole_ms, round_to=8), times)
    left = [group.channels - gone for group, gone in zip(graph.groups, plan.counts(graph), strict=True)]
    assert all(n % 8 == 0 for n in left)
    assert any(left[i] < group.channels for i, group in enumerate(graph.groups))


def test_a_block_that_adds_nothing_leaves_whole() -> None:
    torch.manual_seed(0)
    model = slimcnn.build("resnet20").eval()
    with torch.no_grad():
        model.get_submodule("layer2.0.bn2").weight.zero_()  # type: ignore[union-attr]
    graph = slimcnn.trace(model, torch.zeros(1, 3, 32, 32))
    times = ms_by_macs(model, graph)
    group = next(group for group in graph.groups if "layer2.0.conv1" in group.layers)
    gone = np.zeros(len(graph.groups), dtype=np.int64)
    gone[graph.index(group.name)] = group.channels
    plan = slimcnn.allocate(graph, scored(model, graph), by_the_clock(times.ms(gone)), times)
    assert len(plan.removed[group.name]) == group.channels
    assert set(plan.removed) == {group.name}


def test_all_targets_hold_together(small: tuple[nn.Module, ChannelGraph, slimcnn.Scores]) -> None:
    model, graph, scores = small
    times = ms_by_macs(model, graph)
    plan = slimcnn.allocate(graph, scores, by_the_clock(0.9 * times.whole_ms, params=0.4), times)
    counts = plan.counts(graph)
    assert times.ms(counts) <= 0.9 * times.whole_ms
    assert graph.params(counts) <= 0.4 * graph.params()


def test_a_correction_makes_the_prediction_true_for_what_was_measured(
    small: tuple[nn.Module, ChannelGraph, slimcnn.Scores],
) -> None:
    model, graph, _ = small
    times = replace(ms_by_macs(model, graph), whole_ms=20.0)
    counts = np.zeros(len(graph.groups), dtype=np.int64)
    counts[1] = 4
    measured = 20.0 - 1.3 * times.saved(counts)
    assert times.corrected(counts, measured).ms(counts) == pytest.approx(measured)


def test_milliseconds_below_the_smallest_plan_are_refused_with_what_is_possible(
    small: tuple[nn.Module, ChannelGraph, slimcnn.Scores],
) -> None:
    model, graph, scores = small
    times = ms_by_macs(model, graph)
    with pytest.raises(TargetUnreachable, match=r"the best possible is latency_ms=\d"):
        slimcnn.allocate(graph, scores, by_the_clock(1e-6), times)


def test_milliseconds_without_times_are_refused(small: tuple[nn.Module, ChannelGraph, slimcnn.Scores]) -> None:
    _, graph, scores = small
    with pytest.raises(TargetError, match="latency_model"):
        slimcnn.allocate(graph, scores, by_the_clock(1.0))


def test_sensitivity_measures_what_a_whole_branch_costs_and_leaves_the_other_costs_alone() -> None:
    torch.manual_seed(0)
    model = slimcnn.build("resnet20").eval()
    graph = slimcnn.trace(model, torch.zeros(1, 3, 32, 32))
    images: Tensor = torch.randn(24, 3, 32, 32)
    scores = slimcnn.sensitivity(model, graph, slimcnn.score(model, graph, "l2"), [images])
    for group in graph.groups:
        assert (group.channels in scores.errors[group.name]) == group.branch
        assert len(scores.costs[group.name]) == group.channels


def test_milliseconds_and_running_memory_hold_together(network: tuple[nn.Module, ChannelGraph]) -> None:
    model, graph = network
    latency = ms_by_macs(model, graph, stairs=8)
    scores = slimcnn.score(model, graph, "l2")
    rising = {group.name: torch.arange(1.0, len(group.parts[0]) + 1) for group in graph.groups}
    errors = {name: {n + 1: float(total) for n, total in enumerate(costs.cumsum(0))} for name, costs in rising.items()}
    scores = replace(scores, costs=rising, errors=errors)
    for fast, small in ((0.9, 0.5), (0.5, 0.9)):
        most = int(small * graph.peak_memory())
        target = Target(
            latency_ms=fast * latency.whole_ms, memory=most, scope="sensitivity", residual="cut", round_to=8
        )
        counts = slimcnn.allocate(graph, scores, target, latency).counts(graph)
        assert latency.ms(counts) <= fast * latency.whole_ms
        assert graph.peak_memory(counts) <= most
