"""Sensitivity curves: the measured output error of a network when a group loses channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from slimcnn.errors import DataError
from slimcnn.graph import ChannelGraph, ChannelGroup
from slimcnn.graph.answers import OutputError, compared_outputs
from slimcnn.graph.copying import duplicate
from slimcnn.linear.im2col import as_matrix, as_weight
from slimcnn.linear.layers import LinearLayer, layers_of
from slimcnn.pruning.input_statistics import Reading, not_followed, readings_of
from slimcnn.pruning.scores import Scores
from slimcnn.pruning.surgery import fill_with_zeros

SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of the removable channels at which the output error is measured; between them the curve is linear."""

HELD_OUT = 64
"""Maximum number of held-out images for the output error; at most a quarter of all images."""

RIDGE = 1e-3


def sensitivity(
    model: nn.Module,
    graph: ChannelGraph,
    scores: Scores,
    images: Iterable[Tensor | Sequence[Tensor]],
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Scores:
    """Measure the output error when a group loses channels, for `Target(scope="sensitivity")`.

    One fifth of a group's channels is removed, in the order of the scores, then two fifths, and so on, while all
    other groups keep theirs. The layers that read the group are refitted by least squares on the images (in closed
    form from their moments); where their weight is computed or used more than once, they read zeros. The output MSE
    on held-out images (of several outputs, each in units of its variance: `graph.answers.OutputError`) is a curve over
    the number of removed channels. Its lower convex hull gives every channel a cost; `allocate` first removes the
    channels with the least cost per MAC saved, which is optimal for convex curves that add up.

    Args:
        model: the traced network; it is not changed.
        graph: its channel graph, from `trace`.
        scores: the order in which a group loses channels.
        images: batches (n, c, h, w), or sequences that begin with them, as a `DataLoader` gives; labels are not used.
            All of them are kept in memory (`itertools.islice` takes the first). A quarter of the images, at most 64, is
            held out.
        progress: called with (groups done, total groups).

    Raises:
        DataError: fewer than two images.

    >>> from slimcnn import Target, allocate, score, trace
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1))
    >>> graph = trace(net, torch.zeros(1, 3, 4, 4))
    >>> measured = sensitivity(net, graph, score(net, graph, "l2"), [torch.randn(64, 3, 4, 4)])
    >>> {group: len(costs) for group, costs in measured.costs.items()}
    {'0': 8, '1': 8}
    >>> plan = allocate(graph, measured, Target(macs=0.75, scope="sensitivity"))
    """
    batches = [x for x in (batch if isinstance(batch, Tensor) else batch[0] for batch in images) if len(x)]
    total = sum(map(len, batches))
    if total < 2:
        raise DataError(f"sensitivity needs at least two images, one to fit and one held out; found {total}")
    everything = torch.cat(batches)
    held_out = everything[: min(HELD_OUT, max(total // 4, 1))]
    learning = list(everything[len(held_out) :].split(max(len(batches[0]), 1)))
    copied = duplicate(model).eval()
    readings = readings_of(copied, graph, learning)
    layers = layers_of(copied, held_out[:1])
    costs: dict[str, Tensor] = {}
    measured: dict[str, Mapping[int, float]] = {}
    with torch.no_grad():
        target = compared_outputs(copied, held_out, graph)
        for number, bundle in enumerate(graph.bundles):
            progress(number, len(graph.bundles))
            groups = [graph.groups[i] for i in bundle]
            errors = {0: 0.0}
            for step in _steps(groups):
                with _TemporarilyPruned(copied, layers) as changed:
                    for group in groups:
                        changed.without(group, readings[group.name], _first(scores, group, step))
                    error = OutputError()
                    error.add(compared_outputs(copied, held_out, graph), target)
                    errors[step] = error.value
            channels = len(groups[0].parts[0])
            measured |= dict.fromkeys((group.name for group in groups), errors)
            partial = {step: error for step, error in errors.items() if step < channels}
            costs |= dict.fromkeys((group.name for group in groups), rising(partial, channels))
    progress(len(graph.bundles), len(graph.bundles))
    return replace(scores, costs=costs, errors=measured)


def rising(errors: Mapping[int, float], channels: int) -> Tensor:
    """Compute the cost of each of a group's channels from the lower convex hull of its curve, in removal order.

    >>> rising({0: 0.0, 1: 3.0, 2: 4.0, 4: 8.0}, 4).tolist()
    [2.0, 2.0, 2.0, 2.0]
    """
    hull: list[tuple[int, float]] = []
    for x, y in zip(errors, np.maximum.accumulate([*errors.values()]).tolist(), strict=True):
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (x - hull[-1][0]) >= (y - hull[-1][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        hull.append((x, y))
    costs = np.full(channels, np.inf)
    for (x0, y0), (x1, y1) in pairwise(hull):
        costs[x0:x1] = (y1 - y0) / (x1 - x0)
    last = costs[np.isfinite(costs)].max(initial=0.0)
    costs[~np.isfinite(costs)] = last * (1 + np.arange((~np.isfinite(costs)).sum()))
    return torch.from_numpy(costs)


def _steps(groups: Sequence[ChannelGroup]) -> list[int]:
    """List the numbers of channels to remove from every part; all of them too if a branch may vanish."""
    most = min((group.channels - max(group.least, 1)) // len(group.parts) for group in groups)
    some = {max(round(share * most), 1) for share in SHARES} if most else set()
    return sorted(some | ({len(groups[0].parts[0])} if all(group.branch for group in groups) else set()))


def _first(scores: Scores, group: ChannelGroup, step: int) -> Tensor:
    """Choose the `step` channels of every part that are removed first."""
    kept = torch.zeros(group.channels, dtype=torch.bool)
    kept[scores.keep(group.name, group.channels - step * len(group.parts))] = True
    return (~kept).nonzero()[:, 0]


class _TemporarilyPruned:
    """Context manager that removes channels from a network and refits its layers; exiting restores the weights."""

    def __init__(self, model: nn.Module, layers: dict[str, LinearLayer]) -> None:
        self._tensors = {**dict(model.named_buffers()), **dict(model.named_parameters())}
        self._layers = layers
        self._old: dict[str, Tensor] = {}

    def __enter__(self) -> _TemporarilyPruned:
        return self

    def __exit__(self, *_: object) -> None:
        for name, tensor in self._old.items():
            self._tensors[name].copy_(tensor)

    def without(self, group: ChannelGroup, readings: tuple[Reading, ...], channels: Tensor) -> None:
        """Remove channels from the layers that read them; refit the weights where the layer has statistics."""
        for axis in not_followed(group, readings):
            fill_with_zeros(self._writable(axis.parameter), axis, axis.positions[channels].reshape(-1))
        for reading in readings:
            lost = reading.columns[torch.isin(reading.channels, channels)].reshape(-1)
            if len(lost):
                self._refit(reading, lost)

    def _refit(self, reading: Reading, lost: Tensor) -> None:
        layer = self._layers[reading.name]
        weight = self._writable(reading.name)
        matrix = as_matrix(layer, weight).double().clone()
        kept = torch.ones(matrix.shape[2], dtype=torch.bool)
        kept[lost] = False
        moments = reading.moments
        ridge = RIDGE * moments.diagonal().mean().clamp_min(1e-300) * torch.eye(int(kept.sum()), dtype=moments.dtype)
        before = matrix[reading.part].clone()
        among = moments[kept][:, kept] + ridge
        extra = torch.linalg.solve(among, moments[kept][:, lost] @ before[:, lost].T).T
        matrix[reading.part][:, lost] = 0
        matrix[reading.part][:, kept] += extra
        weight.copy_(as_weight(layer, matrix, weight.shape))
        shift = (before - matrix[reading.part]) @ reading.mean
        made = slice(reading.part * len(shift), (reading.part + 1) * len(shift))
        if layer.bias is not None:
            self._writable(layer.bias)[made] += shift
        elif layer.norm is not None:
            self._writable(layer.norm.mean)[made] -= shift

    def _writable(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        self._old.setdefault(name, tensor.detach().clone())
        return tensor
