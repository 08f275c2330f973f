"""Latency prediction for a pruned network from the latencies of its layers, corrected by measurements.

T(counts) = f(S_whole - S(counts)),  S = sum of the layers' latencies,  f(0) = T_whole

S comes from layers timed alone at a few widths (`LayerTimes`). T_whole is the measured latency of the whole network,
including the cost that layers timed alone do not show (additions, pooling, the call). f falls by one millisecond for
every millisecond that the layers save, until pruned networks are measured; then it interpolates linearly between the
measurements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from slimcnn.errors import ModelError
from slimcnn.exporting import LayerShape, LayerTimes, transfer
from slimcnn.graph import ChannelGraph
from slimcnn.graph.sharing import Share
from slimcnn.measuring import latency, measure
from slimcnn.measuring.examples import with_batch

Milliseconds = Callable[[int, int], float]
"""(input channels, output channels) → latency of a layer with that many channels."""
RemovedCounts = Sequence[int] | NDArray[np.int64]

SECONDS = 1.5
"""Duration of a measurement of a whole network."""

FLAT = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
"""Convolutions that are timed alone; a transposed one is timed as an ordinary one with its output size."""

WIDTHS = 8
"""Maximum number of widths at which a layer is timed; latency is interpolated linearly between them."""


@dataclass(frozen=True)
class TimedLayer:
    """A layer, the axes of its weight, and its latency at a few widths of each axis."""

    name: str
    calls: int
    """Number of calls in one run of the network."""
    axes: tuple[Share, ...]
    """Axes of the weight: outputs, inputs. One axis for a depthwise convolution."""
    curves: tuple[Mapping[int, float], ...]
    """For every axis: kept channels → milliseconds, with all channels on the other axes."""

    @property
    def whole(self) -> float:
        """Milliseconds of one call of the unpruned layer."""
        return float(self.curves[0][self.axes[0].size])

    def ms(self, removed: RemovedCounts) -> float:
        """Milliseconds of all calls when each group loses `removed[group]` channels: one factor per axis."""
        time = self.whole
        for share, (widths, times) in zip(self.axes, self._tables, strict=True):
            left = share.left(removed)
            time *= 0.0 if left == 0 else float(np.interp(left, widths, times)) / self.whole
        return time * self.calls

    @cached_property
    def _tables(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """The curves as arrays: linear between their points, constant below the first."""
        return [(np.array([*curve], dtype=float), np.array([*curve.values()])) for curve in self.curves]


@dataclass(frozen=True)
class LatencyModel:
    """Predicted latency of one call of a network, as a function of the removed channels of its groups."""

    layers: tuple[TimedLayer, ...]
    whole_ms: float
    """Measured latency of the unpruned network."""
    runtime: str
    batch: int
    threads: int
    round_to: int = 1
    """Kept channels should be multiples of this number, which is fast in this runtime."""
    measured: tuple[tuple[float, float], ...] = ()
    """For every measured pruned network: the milliseconds that its layers save when timed alone, and its latency."""

    def ms(self, removed: RemovedCounts) -> float:
        """Predict the milliseconds of one call when each group loses `removed[group]` channels."""
        points = self._points
        saved = self.saved(removed)
        if saved > points[-1][0]:
            return points[-1][1] - self._slope * (saved - points[-1][0])
        return float(np.interp(saved, [x for x, _ in points], [y for _, y in points]))

    @property
    def _points(self) -> list[tuple[float, float]]:
        """Measured points of f, made nonincreasing: a larger saving never means a higher latency, despite noise."""
        found = [(0.0, self.whole_ms), *sorted(self.measured)]
        times = np.minimum.accumulate([time for _, time in found])
        return [(saved, float(time)) for (saved, _), time in zip(found, times, strict=True)]

    @property
    def _slope(self) -> float:
        """Milliseconds saved for each millisecond that the layers save, beyond the last measured point."""
        saved, time = self._points[-1]
        if saved > 0:
            return max((self.whole_ms - time) / saved, 0.05)
        alone = sum(layer.whole * layer.calls for layer in self.layers)
        return min(self.whole_ms / max(alone, 1e-9), 1.0)

    def saved(self, removed: RemovedCounts) -> float:
        """Sum the milliseconds that the layers save when timed alone."""
        return sum(layer.whole * layer.calls - layer.ms(removed) for layer in self.layers)

    def corrected(self, removed: RemovedCounts, measured_ms: float) -> LatencyModel:
        """Return a model that is corrected by the measured latency of a pruned network."""
        saved = self.saved(removed)
        if saved <= 0:
            return self
        others = tuple(point for point in self.measured if abs(point[0] - saved) > 1e-9)
        return replace(self, measured=(*others, (saved, measured_ms)))


def latency_model(
    model: nn.Module,
    graph: ChannelGraph,
    runtime: str = "openvino",
    *,
    batch: int = 1,
    threads: int = 1,
    round_to: int | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> LatencyModel:
    """Measure the latency of a network and its layers in a runtime on this machine, for `Target(latency_ms=...)`.

    Layers that were timed before on this machine (same runtime, version, batch and threads) are not timed again.

    Args:
        model: the traced network; it is not changed.
        graph: its channel graph, from `trace`.
        runtime: openvino, onnxruntime, executorch or torch.
        batch: images per call.
        threads: CPU threads.
        round_to: kept channels will be multiples of this; None: chosen from the latencies of the largest layer.
        progress: called with (layers timed, total layers).

    Raises:
        ExportError: the runtime is not installed, or cannot run the network.
        ModelError: the network does not take one tensor (n, c, h, w).

    >>> import slimcnn, torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
    >>> graph = slimcnn.trace(net, torch.zeros(1, 3, 8, 8))
    >>> latency_model(net, graph, "onnxruntime", round_to=4).ms([0]) > 0
    True
    """
    example = with_batch(graph.example, batch)
    if not isinstance(example, Tensor):
        raise ModelError("a latency target needs a network with one input (n, c, h, w); this one has several inputs")
    times = LayerTimes(runtime, batch=batch, threads=threads)
    opened = transfer(model, example, runtime, threads, dynamic_batch=False)
    whole = latency({"whole": opened}, example, seconds=SECONDS, threads=threads)["whole"].median_ms
    shapes = _shapes(model, example)
    multiple = round_to if round_to is not None else times.multiple(_heaviest(shapes.values()))

    def time(name: str, outputs: int, inputs: int, groups: int) -> float:
        return times[replace(shapes[name], outputs=outputs, inputs=inputs, groups=groups)]

    wanted: list[LayerShape] = []

    def note(name: str, outputs: int, inputs: int, groups: int) -> float:
        wanted.append(replace(shapes[name], outputs=outputs, inputs=inputs, groups=groups))
        return 1.0

    timed_layers(model, graph, note, multiple)
    times.learn(wanted, progress)
    layers = timed_layers(model, graph, time, multiple)
    return LatencyModel(layers, whole, runtime, batch, threads, multiple)


def _shapes(model: nn.Module, example: Tensor) -> dict[str, LayerShape]:
    """Return the shape of every convolution and linear layer when the network runs on the example."""
    modules = dict(model.named_modules())
    found = {}
    for layer in measure(model, example).layers:
        module = modules[layer.name]
        if layer.output is None or not layer.macs:
            continue
        if isinstance(module, nn.Linear):
            found[layer.name] = LayerShape(module.in_features, module.out_features, (), 1, 1, 1)
        elif isinstance(module, FLAT):
            height, width = (*layer.output[2:], 1)[:2]
            kernel = (*module.kernel_size, 1)[:2]
            found[layer.name] = LayerShape(
                module.in_channels, module.out_channels, kernel, module.groups, height, width
            )
    return found


def _heaviest(shapes: Iterable[LayerShape]) -> LayerShape:
    """Return the convolution with the most MACs."""
    return max(
        shapes,
        key=lambda one: (
            one.inputs * one.outputs // one.groups * math.prod(one.kernel) * one.height * one.width * bool(one.kernel)
        ),
    )


def timed_layers(
    model: nn.Module, graph: ChannelGraph, time: Callable[[str, int, int, int], float], round_to: int = 1
) -> tuple[TimedLayer, ...]:
    """Time every convolution and linear layer of a network at a few widths.

    `time(layer, outputs, inputs, groups)` returns the milliseconds of a layer with that many channels.
    """
    modules = dict(model.named_modules())
    calls: dict[str, int] = {}
    for contraction in graph.contractions:
        if contraction.macs:
            calls[contraction.module] = calls.get(contraction.module, 0) + 1
    found = []
    for name, number in calls.items():
        shares = graph.parameters.get(f"{name}.weight" if name else "weight")
        module = modules.get(name)
        if shares is None or not isinstance(module, (*FLAT, nn.Linear)):
            continue  # its latency is part of the whole network's and does not change
        found.append(_timed(name, module, shares, number, time, round_to))
    return tuple(found)


def _timed(
    name: str, module: nn.Module, shares: Sequence[Share], calls: int,
    time: Callable[[str, int, int, int], float], round_to: int,
) -> TimedLayer:  # fmt: skip
    transposed = getattr(module, "transposed", False)
    outputs, inputs = (shares[1], shares[0]) if transposed else (shares[0], shares[1])
    groups = int(getattr(module, "groups", 1))
    if groups > 1 and inputs.size == 1:  # depthwise: one filter per channel
        curve = {left: time(name, left, left, left) for left in _widths(outputs.size, round_to)}
        return TimedLayer(name, calls, (outputs,), (_never_rising(curve),))
    by_output = {left: time(name, left, inputs.size * groups, groups) for left in _widths(outputs.size, round_to)}
    by_input = {left: time(name, outputs.size, left * groups, groups) for left in _widths(inputs.size, round_to)}
    return TimedLayer(name, calls, (outputs, inputs), (_never_rising(by_output), _never_rising(by_input)))


def _widths(size: int, round_to: int) -> Iterator[int]:
    """List a few multiples of `round_to` up to `size`, and `size`.

    >>> list(_widths(64, 8)), list(_widths(16, 1)), list(_widths(10, 8))
    ([8, 16, 24, 32, 40, 48, 56, 64], [2, 4, 6, 8, 10, 12, 14, 16], [8, 10])
    """
    step = -(-max(size, 1) // (WIDTHS * round_to)) * round_to
    yield from range(step, size, step)
    yield size


def _never_rising(curve: Mapping[int, float]) -> dict[int, float]:
    """Make a curve monotonic: fewer channels never take longer, because a kernel can be padded with zeros.

    >>> _never_rising({8: 1.0, 16: 3.0, 24: 2.0})
    {8: 1.0, 16: 2.0, 24: 2.0}
    """
    widths = sorted(curve)
    least = np.minimum.accumulate([curve[width] for width in reversed(widths)])[::-1]
    return dict(zip(widths, map(float, least), strict=True))
