"""Milliseconds of a pruned network before it exists: from the times of its layers, and corrected by what was measured.

T(counts) = T_whole - s (S_whole - S(counts)),  S = sum of the layers' times

S comes from layers timed alone at a few widths (`LayerTimes`); T_whole is the whole network's measured time, which holds
everything that layers alone do not show (additions, pooling, the call); s is 1 until a pruned network was measured, and
then makes the formula true for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from slimcnn.graph import ChannelGraph
from slimcnn.graph.channels import Share

Milliseconds = Callable[[int, int], float]
"""(input channels, output channels) → time of a layer with so many."""
Counts = Sequence[int] | NDArray[np.int64]

WIDTHS = 8
"""Widths at which a layer is timed, at most; between them time is straight."""


@dataclass(frozen=True)
class TimedLayer:
    """A layer, the axes of its weight, and its time at a few widths of each."""

    name: str
    calls: int
    """How often the network runs it."""
    axes: tuple[Share, ...]
    """Of the weight: outputs, inputs. One axis for a depthwise convolution."""
    curves: tuple[Mapping[int, float], ...]
    """For every axis, channels that stay → milliseconds, all other axes whole."""

    @property
    def whole(self) -> float:
        """Milliseconds of one call before any cut."""
        return float(self.curves[0][self.axes[0].size])

    def ms(self, removed: Counts) -> float:
        """Milliseconds of all calls when each group loses so many channels: a product of one factor an axis."""
        time = self.whole
        for share, curve in zip(self.axes, self.curves, strict=True):
            left = share.left(removed)
            time *= 0.0 if left == 0 else _between(curve, left) / self.whole
        return time * self.calls


@dataclass(frozen=True)
class LatencyModel:
    """Milliseconds for one call of a network, by the channels that its groups lose."""

    layers: tuple[TimedLayer, ...]
    whole_ms: float
    """Measured, before any cut."""
    runtime: str
    batch: int
    threads: int
    scale: float = 1.0
    """s in the formula at the top."""

    def ms(self, removed: Counts) -> float:
        """Predict the milliseconds of one call when each group loses `removed[group]` channels."""
        return self.whole_ms - self.scale * self.saved(removed)

    def saved(self, removed: Counts) -> float:
        """Sum up what the layers save when they run alone."""
        return sum(layer.whole * layer.calls - layer.ms(removed) for layer in self.layers)

    def corrected(self, removed: Counts, measured_ms: float) -> LatencyModel:
        """Make the formula true for a pruned network that was measured; s stays within 1/4 and 4."""
        alone = self.saved(removed)
        if alone <= 0:
            return self
        return replace(self, scale=float(np.clip((self.whole_ms - measured_ms) / alone, 0.25, 4.0)))


def timed_layers(
    model: nn.Module, graph: ChannelGraph, time: Callable[[str, int, int, int], float], round_to: int = 1
) -> tuple[TimedLayer, ...]:
    """Time every convolution and linear layer of a network at a few widths.

    `time(layer, outputs, inputs, groups)` gives the milliseconds of a layer with so many channels.
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
        if shares is None or not isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            continue
        found.append(_timed(name, module, shares, number, time, round_to))
    return tuple(found)


def _timed(
    name: str, module: nn.Module, shares: Sequence[Share], calls: int,
    time: Callable[[str, int, int, int], float], round_to: int,
) -> TimedLayer:  # fmt: skip
    transposed = getattr(module, "transposed", False)
    outputs, inputs = (shares[1], shares[0]) if transposed else (shares[0], shares[1])
    groups = int(getattr(module, "groups", 1))
    if groups > 1 and inputs.size == 1:  # depthwise: a filter a channel
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
    """Let fewer channels never take longer: a kernel can always be padded with zeros.

    >>> _never_rising({8: 1.0, 16: 3.0, 24: 2.0})
    {8: 1.0, 16: 2.0, 24: 2.0}
    """
    widths = sorted(curve)
    least = np.minimum.accumulate([curve[width] for width in reversed(widths)])[::-1]
    return dict(zip(widths, map(float, least), strict=True))


def _between(curve: Mapping[int, float], left: int) -> float:
    """Read a curve at a width: straight between its points, level below the first."""
    return float(np.interp(left, list(curve), list(curve.values())))
