"""Refit pruned layers by least squares to reproduce the original's outputs, without labels or training."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from slimcnn.graph import ChannelGraph
from slimcnn.graph.answers import compared_outputs
from slimcnn.graph.channels import layer_of
from slimcnn.graph.removal import kept_positions
from slimcnn.linear.im2col import MOST_INPUTS, as_matrix
from slimcnn.linear.layers import layers_of
from slimcnn.pruning.plan import Plan
from slimcnn.recovery.refit import Pair, Recovered, Solved, pair_of, re_solve


def least_squares(
    model: nn.Module,
    original: nn.Module,
    graph: ChannelGraph,
    plan: Plan,
    batches: Iterable[Tensor | tuple[Tensor, ...]],
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Recovered:
    r"""Refit, in place, every layer of a pruned network from the first layer that lost input channels on.

    Layers are refitted in execution order. For every convolution and linear layer with weights W, x is its input in
    the network pruned and refitted so far, and y the output of the original for the same images:

        min over W', b of  sum ||y - W' x - b||^2 + n * penalty * v * ||W' - W||^2

    v is the mean variance of an input. b goes into the layer's bias, or into the running mean of its batch norm. If the
    layer's output is added to something else (a residual branch), y is the difference to the original's sum. One image
    in four is held out. Held-out images choose the penalty (1e-6 ... 10). A layer whose output error on held-out images
    does not decrease keeps its weights, and so does the whole network if its output error does not decrease.

    Sums are in float64; their memory does not grow with the number of images. Batch norm recalibration is not needed
    afterwards: every norm receives the inputs that it expects.

    Args:
        model: the pruned network; changed in place.
        original: the network it was pruned from; not changed.
        graph: the channel graph of the original.
        plan: the channels that were removed.
        batches: images (n, c, h, w) as the network expects them, or tuples that begin with them. 512 to 2048 images
            are enough; no labels are needed.
        progress: called with (layers done, layers in total).

    Raises:
        DataError: no images, images that are not finite, or that the network does not accept.

    Source: channel pruning by reconstruction, He et al. 2017 (arXiv 1707.06168), and ThiNet, Luo et al. 2017 (arXiv
    1707.06342). Deviations: all later layers are refitted, the ridge pulls toward the old weights, sums of residual
    branches are matched, and held-out images decide.

    >>> import slimcnn
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)).eval()
    >>> with torch.no_grad(): _ = net[0].weight[4:].copy_(net[0].weight[:4]); _ = net[0].bias[4:].copy_(net[0].bias[:4])
    >>> graph = slimcnn.trace(net, torch.zeros(1, 3, 4, 4))
    >>> plan = slimcnn.Plan(graph.fingerprint, {"0": (4, 5, 6, 7)})
    >>> small = slimcnn.prune(net, graph, plan)
    >>> found = least_squares(small, net, graph, plan, [torch.randn(16, 3, 4, 4)])
    >>> found.before > 0.01, found.after < 1e-9
    (True, True)
    """

    def pairs_for(example: Tensor) -> tuple[list[Pair], list[Solved]]:
        return _pairs(model, original, graph, plan, example)

    def outputs(network: nn.Module, x: Tensor) -> list[Tensor]:
        return compared_outputs(network, x, graph)

    return re_solve(model, original, pairs_for, batches, progress, outputs)


def _pairs(
    model: nn.Module, original: nn.Module, graph: ChannelGraph, plan: Plan, example: Tensor
) -> tuple[list[Pair], list[Solved]]:
    """Pair all layers from the first that lost inputs on with the original's; list layers that cannot be refitted."""
    kept = kept_positions(graph, plan.by_index(graph))
    small, whole = layers_of(model, example), layers_of(original, example)
    tensors = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    before = dict(original.named_parameters())
    removed = set(plan.removed)
    cut = dict.fromkeys(axis.parameter for group in graph.groups if group.name in removed for axis in group.reads)
    left = [
        Solved(layer_of(name), why_kept="its weight is computed, or used more than once")
        for name in cut
        if name in tensors and tensors[name].numel() and not (name in small and name in whole)
    ]
    first = min((small[name].operation for name in cut if name in small and name in whole), default=0)
    pairs = []
    for name, layer in small.items():
        if not removed or layer.operation < first or name not in whole:
            continue
        inputs = as_matrix(layer, tensors[name]).shape[2]
        if inputs > MOST_INPUTS:
            left.append(Solved(layer_of(name), why_kept=f"{inputs} inputs are more than {MOST_INPUTS}"))
            continue
        made = kept.get(name, {}).get(layer.made_axis)
        if made is not None and layer.transposed and layer.groups > 1:
            made = _in_every_group(made, layer.groups, before[name].shape[1])
        pairs.append(pair_of(name, layer, whole[name], tensors, made))
    return pairs, left


def _in_every_group(kept: Tensor, groups: int, per_group: int) -> Tensor:
    """Return the kept output channels of a grouped transposed convolution, numbered over all groups: (channels,)."""
    blocks = kept if kept.dim() == 2 else kept.expand(groups, -1)
    return (blocks + torch.arange(groups)[:, None] * per_group).reshape(-1)
