"""The loop that makes a plan meet the clock: predicted, cut, measured, corrected."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import slimcnn
from slimcnn import Target
from slimcnn.errors import SlimcnnError, TargetUnreachable
from slimcnn.graph import ChannelGraph
from slimcnn.measuring.counts import measure
from slimcnn.pruning.latency import LatencyModel, timed_layers
from slimcnn.running.recipe import recipe_from, steps_from_line
from slimcnn.show import SILENT
from slimcnn.steps.prune import clock as clocks
from slimcnn.steps.prune.clock import Clock, about_clock, plan_by_clock

CLOCK = Clock("0.6", "onnxruntime", 1, 1)
TARGET = Target(macs=1.0, scope="sensitivity", min_channels=0, residual="inner")


@pytest.fixture(scope="module")
def prepared() -> tuple[nn.Module, ChannelGraph, slimcnn.Scores, LatencyModel]:
    torch.manual_seed(0)
    model = slimcnn.build("resnet20").eval()
    graph = slimcnn.trace(model, torch.zeros(1, 3, 32, 32))
    scores = slimcnn.sensitivity(model, graph, slimcnn.score(model, graph, "l2"), [torch.randn(24, 3, 32, 32)])
    layers = timed_layers(model, graph, lambda _, outputs, inputs, groups: outputs * inputs / groups)
    whole = sum(layer.whole * layer.calls for layer in layers)
    return model, graph, scores, LatencyModel(layers, whole, "onnxruntime", 1, 1)


def machine(
    monkeypatch: pytest.MonkeyPatch, graph: ChannelGraph, times: LatencyModel, slope: float, fixed: float
) -> None:
    """A machine on which a network of m of the whole's parameters takes (fixed + slope m) of the whole's time."""
    monkeypatch.setattr(clocks, "transfer", lambda *_, **__: None)

    def time(_: object, small: nn.Module, *__: object) -> float:
        share = measure(small, graph.example).params / graph.params()
        return (fixed + slope * share) * times.whole_ms

    monkeypatch.setattr(clocks, "_time", time)


@pytest.mark.parametrize(("slope", "fixed"), [(1.0, 0.0), (0.6, 0.4), (1.3, -0.3)])
def test_the_measured_time_ends_within_five_percent_of_the_target(
    slope: float,
    fixed: float,
    prepared: tuple[nn.Module, ChannelGraph, slimcnn.Scores, LatencyModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, graph, scores, times = prepared
    machine(monkeypatch, graph, times, slope, fixed)
    found = plan_by_clock(CLOCK, TARGET, model, graph, scores, times, SILENT)
    assert abs(found.chosen.measured_ms / found.target_ms - 1) <= 0.05
    assert found.plan is found.chosen.plan


def test_a_target_below_the_smallest_network_says_what_that_takes(
    prepared: tuple[nn.Module, ChannelGraph, slimcnn.Scores, LatencyModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, graph, scores, times = prepared
    machine(monkeypatch, graph, times, slope=0.2, fixed=0.8)
    with pytest.raises(TargetUnreachable, match=r"the smallest network that these settings allow takes"):
        plan_by_clock(replace(CLOCK, asked="0.01"), TARGET, model, graph, scores, times, SILENT)


def test_a_network_that_is_faster_than_predicted_meets_a_target_that_looked_out_of_reach(
    prepared: tuple[nn.Module, ChannelGraph, slimcnn.Scores, LatencyModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, graph, scores, times = prepared
    layers = tuple(
        replace(layer, curves=tuple({w: ms / 2 for w, ms in curve.items()} for curve in layer.curves))
        for layer in times.layers
    )
    pessimistic = replace(times, layers=layers)
    machine(monkeypatch, graph, times, slope=1.0, fixed=0.0)
    found = plan_by_clock(replace(CLOCK, asked="0.4"), TARGET, model, graph, scores, pessimistic, SILENT)
    assert found.chosen.measured_ms <= 0.42 * times.whole_ms


def test_layers_that_were_timed_far_too_fast_do_not_lead_to_a_tiny_network(
    prepared: tuple[nn.Module, ChannelGraph, slimcnn.Scores, LatencyModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a busy machine made the whole network eight times slower than its layers: 0.00 of the MACs were left."""
    model, graph, scores, times = prepared
    layers = tuple(
        replace(layer, curves=tuple({w: ms / 8 for w, ms in curve.items()} for curve in layer.curves))
        for layer in times.layers
    )
    machine(monkeypatch, graph, times, slope=1.0, fixed=0.0)
    found = plan_by_clock(CLOCK, TARGET, model, graph, scores, replace(times, layers=layers), SILENT)
    assert abs(found.chosen.measured_ms / found.target_ms - 1) <= 0.05


def test_a_miss_is_said_in_the_report(
    prepared: tuple[nn.Module, ChannelGraph, slimcnn.Scores, LatencyModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, graph, scores, times = prepared
    machine(monkeypatch, graph, times, slope=1.0, fixed=0.0)
    found = plan_by_clock(CLOCK, TARGET, model, graph, scores, times, SILENT)
    slow = replace(found, chosen=replace(found.chosen, measured_ms=1.2 * found.target_ms))
    blocks = about_clock(slow, CLOCK).blocks
    assert any(block.kind == "text" and block.tone == "bad" and "20% slower" in block.text for block in blocks)
    fast = replace(found, chosen=replace(found.chosen, measured_ms=0.5 * found.target_ms), alone=True)
    assert "50% faster than the target: it cuts more than necessary" in fast.miss
    assert not replace(fast, alone=False).miss  # another target asked for more
    assert not any(block.kind == "text" and block.tone == "bad" for block in about_clock(found, CLOCK).blocks)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("prune:latency=fast", "give milliseconds"),
        ("prune:latency=-1ms", "give milliseconds"),
        ("prune:latency=1.5", "give milliseconds"),
        ("prune:latency=0.5,pruning_ratio=0.5", "give one of them"),
        ("prune:macs=0.5,runtime=openvino", "give latency"),
        ("prune:latency=0.5,runtime=tflite", "unknown runtime 'tflite'"),
        ("prune:latency=0.5,threads=0", "threads"),
    ],
)
def test_an_impossible_wish_is_one_line(line: str, said: str) -> None:
    with pytest.raises(SlimcnnError, match=said) as error:
        recipe_from({"network": {"model": "resnet8"}, "steps": steps_from_line(line)})
    assert "\n" not in str(error.value)
