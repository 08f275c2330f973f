"""Second-order statistics of the inputs that layers read from a group: they show which channels are redundant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from slimcnn.errors import CriterionError
from slimcnn.graph import Axis, ChannelGraph, ChannelGroup
from slimcnn.graph.copying import duplicate
from slimcnn.linear.im2col import MOST_INPUTS, as_matrix, rows_of
from slimcnn.linear.layers import LinearLayer, layers_of
from slimcnn.linear.layerwise_replay import LayerwiseReplay, ReplayedOp
from slimcnn.linear.ridge import Sums


@dataclass(frozen=True)
class Reading:
    """Input statistics of one layer (or one group of a grouped convolution) that reads a group's channels.

    `moments` (f, f) are the second central moments of its inputs and `mean` (f,) their means, float64; `weight` (o, f)
    maps them to its outputs and is part `part` of the parameter `name`; row i of `columns` (channels, k) lists the
    inputs that belong to channel `channels[i]` of the group.
    """

    name: str
    part: int
    moments: Tensor
    mean: Tensor
    weight: Tensor
    channels: Tensor
    columns: Tensor

    def of(self, part: Tensor) -> Reading:
        """Return the statistics for some channels of the group, numbered by their place in `part`; the others stay."""
        place = {int(channel): index for index, channel in enumerate(part)}
        own = [row for row, channel in enumerate(self.channels.tolist()) if channel in place]
        channels = torch.tensor([place[int(self.channels[row])] for row in own], dtype=torch.int64)
        return replace(self, channels=channels, columns=self.columns[own])


def readings_of(model: nn.Module, graph: ChannelGraph, images: Iterable[Tensor]) -> dict[str, tuple[Reading, ...]]:
    """Run a network on images and return, by group name, the statistics of every layer that reads the group."""
    batches = [x for x in images if len(x)]
    if not batches:
        raise CriterionError("the criterion needs images, but the batches are empty")
    copied = duplicate(model).eval()
    weights = dict(copied.named_parameters())
    wanted = {axis.parameter for group in graph.groups for axis in group.reads}
    layers = {
        name: layer
        for name, layer in layers_of(copied, batches[0][:1]).items()
        if name in wanted and as_matrix(layer, weights[name]).shape[2] <= MOST_INPUTS
    }
    moments = _moments(copied, layers, weights, batches)
    return {
        group.name: tuple(
            reading
            for axis in group.reads
            if axis.parameter in layers and axis.axis == layers[axis.parameter].read_axis
            for reading in _of_axis(axis, layers[axis.parameter], weights[axis.parameter], *moments[axis.parameter])
        )
        for group in graph.groups
    }


def not_followed(group: ChannelGroup, readings: tuple[Reading, ...]) -> tuple[Axis, ...]:
    """List the axes that read a group but have no statistics: a weight is computed, shared or too wide."""
    followed = {reading.name for reading in readings}
    return tuple(axis for axis in group.reads if axis.parameter not in followed)


def _moments(
    model: nn.Module, layers: dict[str, LinearLayer], weights: dict[str, nn.Parameter], batches: list[Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Compute means (groups, f) and second central moments (groups, f, f) of every layer's inputs."""
    at = {layer.operation: name for name, layer in layers.items()}
    images = sum(map(len, batches))
    sums: dict[str, Sums] = {}

    def accumulate(batch: int, n: int, operation: ReplayedOp) -> None:
        name = at[n]
        layer, weight = layers[name], weights[name]
        rows = rows_of(layer, weight, operation, len(batches[batch]), images)[0].flatten(1, 2)
        new = Sums.of(rows, rows.new_zeros(*rows.shape[:2], 0))
        sums[name] = sums[name] + new if name in sums else new

    if at:
        with LayerwiseReplay(model, batches) as way:
            way.go(0, max(at), at, accumulate)
    means = {name: found.x / found.n for name, found in sums.items()}
    return {
        name: (mean, sums[name].xx / sums[name].n - mean[:, :, None] * mean[:, None]) for name, mean in means.items()
    }


def _of_axis(axis: Axis, layer: LinearLayer, weight: Tensor, mean: Tensor, moments: Tensor) -> list[Reading]:
    """Split the positions of a weight's input axis by the groups of the layer; one `Reading` for each group."""
    matrix = as_matrix(layer, weight.detach()).double()
    inputs = weight.shape[0] // layer.groups if layer.transposed else weight.shape[1]
    kernel = matrix.shape[2] // inputs
    found = []
    for group in range(layer.groups):
        # Positions are numbered across the groups of a convolution; also those of a transposed one.
        here = axis.positions // inputs == group
        rows = np.flatnonzero(here.any(axis=1))
        if not len(rows):
            continue
        within = torch.from_numpy(np.stack([axis.positions[row][here[row]] for row in rows]) % inputs)
        columns = (within[:, :, None] * kernel + torch.arange(kernel)).flatten(1)
        found.append(
            Reading(axis.parameter, group, moments[group], mean[group], matrix[group], torch.from_numpy(rows), columns)
        )
    return found
