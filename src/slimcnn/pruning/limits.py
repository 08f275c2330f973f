"""The quantities that a target limits, by the number of removed channels, and the error when one is unreachable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slimcnn.errors import TargetError, TargetUnreachable
from slimcnn.graph import ChannelGraph
from slimcnn.pruning.latency import LatencyModel
from slimcnn.pruning.targets import SHARES, Target, written

Counts = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Limit:
    """A quantity that a target limits: its maximum, and its value after channels are removed."""

    name: str
    most: float
    cost: Callable[[Counts], float]
    """Number of removed channels of every group → the quantity, in the unit of `most`."""

    def met(self, counts: Counts) -> bool:
        """Return whether the quantity is small enough when each group loses `counts[group]` channels."""
        return self.cost(counts) <= self.most


def limits_of(graph: ChannelGraph, target: Target, latency: LatencyModel | None = None) -> list[Limit]:
    """List the limits of a target, in the order of `SIZES`."""
    costs: dict[str, Callable[[Counts], float]] = {
        "macs": graph.macs, "params": graph.params, "bytes": graph.bytes, "memory": graph.peak_memory,
    }  # fmt: skip
    if target.latency_ms is not None:
        if latency is None:
            raise TargetError(
                f"latency_ms={target.latency_ms:g} needs layer latencies: pass latency_model(model, graph, runtime)"
            )
        costs["latency_ms"] = latency.ms
    none = np.zeros(len(graph.groups), dtype=np.int64)
    return [
        Limit(name, getattr(target, name) * (costs[name](none) if name in SHARES else 1), costs[name])
        for name in target.sized
    ]


def reached_by(graph: ChannelGraph, target: Target, limits: Sequence[Limit]) -> Callable[[Counts], bool]:
    """Return a function that checks whether removing `counts` channels meets the target."""
    channels = sum(group.channels for group in graph.groups)

    def met(counts: Counts) -> bool:
        enough = target.pruning_ratio is None or int(counts.sum()) >= np.floor(channels * target.pruning_ratio + 1e-9)
        return enough and all(limit.met(counts) for limit in limits)

    return met


def unreachable(graph: ChannelGraph, target: Target, most: Counts, limits: Sequence[Limit]) -> TargetUnreachable:
    """Return the error for an unreachable target: the best possible values (with `most` removed) and their limits."""
    none = np.zeros_like(most)
    best = {
        limit.name: limit.cost(most) / (max(limit.cost(none), 1) if limit.name in SHARES else 1) for limit in limits
    }
    said = [f"{name}={written(name, value)}" for name, value in best.items()]
    if target.pruning_ratio is not None:
        best["pruning_ratio"] = int(most.sum()) / max(sum(group.channels for group in graph.groups), 1)
        said.append(f"pruning_ratio={best['pruning_ratio']:.3f}")
    blocks = [f"{lock.layer} ({lock.reason})" for lock in graph.locked[:4]]
    widest = max((group.channels for group in graph.groups), default=0)
    if target.pruning_ratio is not None and widest * target.pruning_ratio < 1 and graph.groups:
        blocks.append(f"{target.pruning_ratio:g} of the widest group ({widest} channels) is less than one channel")
    if target.memory is not None:
        blocks.append(f"the input alone takes {written('memory', int(graph.timeline.at(none, 4)[0]))} of memory")
    blocks += [f"protected: {', '.join(target.protect)}"] if target.protect else []
    blocks += [f"round_to={target.round_to}"] if target.round_to > 1 else []
    blocks += [f"min_share={target.min_share:g}"] if target.min_share else []
    blocks += [f"min_channels={target.min_channels}"] if target.min_channels > 1 else []
    more = f" and {len(graph.locked) - 4} more" if len(graph.locked) > 4 else ""
    return TargetUnreachable(
        f"cannot reach {target.describe()}: the best possible is {', '.join(said)}; "
        f"limited by: {'; '.join(blocks) or 'no other channels can be removed'}{more}",
        best,
    )
