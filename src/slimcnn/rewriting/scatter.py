"""Residual streams of fixed width, into which each layer adds its own subset of channels."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from slimcnn.errors import ModelError
from slimcnn.graph import ChannelGraph, trace
from slimcnn.graph.channels import layer_of
from slimcnn.graph.copying import duplicate
from slimcnn.graph.execution import call_model, outputs_of
from slimcnn.layers.placing import place, placing_of
from slimcnn.linear.layers import LinearLayer, layers_of, readers_of
from slimcnn.rewriting.rules import Change, RewriteRule, Rewritten, rewrites

Network = TypeVar("Network", bound=nn.Module)


def scatter(model: Network, example: Any) -> Network:
    """Return a copy of a residual network in which the last layer of each block can be pruned independently.

    In the copy, every layer that adds into a residual stream (with its batch norm) records the positions of its
    channels in the stream. The copy computes the same as the model. Its channel graph has one channel group for each
    such layer, where that of the model has one for the whole stream. A pruned layer computes fewer channels and writes
    them to their positions in a stream of full width. A convolution that reads the output of only one of these layers
    (the first one of the first block) reads only its channels. Layers that already scatter stay unchanged.

    This is the accounting of SFP and FPGM: at pruning ratio r, a basic block needs (1 - r) of the MACs of its first
    convolution and (1 - r)^2 of those of its last; ResNet-110 at r = 0.5 saves 62.83 %.

    Args:
        model: the network; not changed.
        example: one input batch (n, c, h, w), or a tuple or dict of inputs.

    Raises:
        ModelError: there is no stream into which several layers add, or a layer cannot be rewritten.

    Source: He et al. 2018, Soft filter pruning (arXiv 1808.06866), whose pruned networks store such indices.

    >>> import slimcnn
    >>> net, example = slimcnn.build("resnet20"), torch.zeros(1, 3, 32, 32)
    >>> net = scatter(net, example)
    >>> graph = slimcnn.trace(net, example)
    >>> plan = slimcnn.allocate(graph, slimcnn.score(net, graph, "fpdf"), slimcnn.Target(pruning_ratio=0.5))
    >>> small = slimcnn.prune(net, graph, plan)
    >>> small.layer1[0].bn2.num_features, small.layer1[1].conv1.in_channels, len(small.layer1[0].bn2.places)
    (8, 16, 8)
    >>> round(1 - graph.macs(plan.counts(graph)) / graph.macs(), 4)
    0.6454
    """
    graph = trace(model, example)
    watched = duplicate(model).eval().to("cpu")
    placing = _placing(watched, graph, layers_of(watched, graph.example), readers_of(watched, graph.example))
    if not placing["scatter"]:
        if placing_of(model):
            return duplicate(model)  # every stream is already rewritten
        raise ModelError(
            "no layers to scatter: the network has no residual stream into which several convolutions or batch norms "
            "add"
        )
    with torch.no_grad():
        before = outputs_of(call_model(watched, graph.example))
        place(watched, placing)
        after = outputs_of(call_model(watched, graph.example))
    if not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
        raise ModelError(
            "the network cannot be scattered: its outputs change, because a layer that adds into a stream is called "
            "in an unsupported way"
        )
    rewritten = duplicate(model)
    place(rewritten, placing)
    return rewritten


def _placing(
    model: nn.Module, graph: ChannelGraph, layers: dict[str, LinearLayer], readers: dict[str, tuple[str, ...]]
) -> dict[str, dict[str, Any]]:
    """Find the layers that add into streams, and those that read the output of only one of them."""
    scattering: dict[str, Any] = {}
    gathering: dict[str, Any] = {}
    for axis in (axis for group in graph.groups if group.residual for axis in group.filters):
        layer = layers.get(axis.parameter)
        if layer is None or axis.axis != layer.made_axis:
            continue
        name = layer_of(layer.norm.mean if layer.norm else axis.parameter)
        if isinstance(model.get_submodule(name), _BatchNorm | _ConvNd):
            scattering[name] = int(axis.size)
            gathering |= dict.fromkeys(map(layer_of, readers.get(axis.parameter, ())), name)
    return {"scatter": scattering, "gather": gathering}


@rewrites.add("scatter", source="He et al. 2018, arXiv 1808.06866")
def scattering() -> RewriteRule:
    """Allow independent pruning of every layer that adds into a residual stream; see `scatter`."""

    def rewrite(model: nn.Module, example: Any) -> Rewritten:
        scattered = scatter(model, example)
        placing = placing_of(scattered)
        done = [
            Change(name, f"scatters into a stream of {width} channels") for name, width in placing["scatter"].items()
        ]
        done += [Change(name, f"reads only the channels of {source}") for name, source in placing["gather"].items()]
        return Rewritten(scattered, tuple(done))

    return rewrite
