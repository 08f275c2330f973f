"""Build the pruned network, or the masked network of the original size that it must equal."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

import torch
from torch import nn

from slimcnn.errors import PlanError
from slimcnn.graph import Axis, ChannelGraph
from slimcnn.graph.channels import Positions
from slimcnn.graph.copying import duplicate
from slimcnn.graph.fast.collection import collection_paused
from slimcnn.graph.fast.module_tree import named_parameters
from slimcnn.graph.removal import kept_counts, kept_positions
from slimcnn.graph.shrinking import shrink
from slimcnn.pruning.optimizer_transfer import watch_optimizers
from slimcnn.pruning.plan import Plan, check
from slimcnn.pruning.verify import Copies, check_equal

Network = TypeVar("Network", bound=nn.Module)


@collection_paused()
def prune(model: Network, graph: ChannelGraph, plan: Plan, verify: bool = True) -> Network:
    """Build the network without the plan's channels; `model` is not changed.

    Mode, requires_grad, dtype, device, memory format, tied weights and hooks are copied; gradients are not. An
    optimizer of the old network does not train the new one: `carry` it over, or create a new one. If the new network
    is trained with the old optimizer, its `step` finds no gradients and raises.

    Args:
        model: the traced network.
        graph: its channel graph, from `trace`.
        plan: from `allocate`, or edited by hand.
        verify: check in float64 that the result equals `mask(model, graph, plan)` on an input like the example.

    Raises:
        PlanError: the plan is for another network; NotEqual: the check failed; it names the first layer that differs.

    >>> import slimcnn
    >>> net = slimcnn.build("resnet20")
    >>> graph = slimcnn.trace(net, torch.zeros(1, 3, 32, 32))
    >>> plan = slimcnn.allocate(graph, slimcnn.score(net, graph, "fpdf"), slimcnn.Target(pruning_ratio=0.5))
    >>> small = prune(net, graph, plan)
    >>> net.layer1[0].conv1.weight.shape, small.layer1[0].conv1.weight.shape
    (torch.Size([16, 16, 3, 3]), torch.Size([8, 8, 3, 3]))
    """
    _check_shapes(model, graph, plan)
    removed = plan.by_index(graph)
    kept = kept_positions(graph, removed)
    with torch.inference_mode(False):  # parameters that are made in inference mode can never be trained
        small = duplicate(model, shared=kept)
        shrink(small, kept, kept_counts(graph, removed))
        small.zero_grad()
        if verify:
            check_equal(masked_copies(model, graph, plan), small, graph, plan)
    watch_optimizers(model, graph)
    return small


def mask(model: Network, graph: ChannelGraph, plan: Plan) -> Network:
    """Copy the network and zero all parameters of the plan's channels; shapes do not change.

    The filters, biases, scales and shifts that produce a removed channel are zero, and so are the weights that read
    it: the next layers ignore the channel even if an activation does not map zero to zero. Where it does, gradients
    do not revive a removed channel.

    >>> import slimcnn
    >>> net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Sigmoid(), nn.Flatten(), nn.Linear(3, 2))
    >>> graph = slimcnn.trace(net, torch.zeros(1, 1, 1, 1))
    >>> masked = mask(net, graph, Plan(graph.fingerprint, {"0": (1,)}))
    >>> masked[3].weight[0, 1].item(), masked[0].bias[1].item()
    (0.0, 0.0)
    """
    _check_shapes(model, graph, plan)
    return _zeroed(graph, plan, duplicate(model))


def masked_copies(model: nn.Module, graph: ChannelGraph, plan: Plan) -> Copies:
    """Return copies like `mask(model, graph, plan)` for the equality check."""
    _check_shapes(model, graph, plan)
    return Copies(model, partial(_zeroed, graph, plan))


def _zeroed(graph: ChannelGraph, plan: Plan, masked: Network) -> Network:
    """Zero all parameters of the plan's channels in place."""
    parameters = dict(masked.named_parameters())
    with torch.no_grad():
        for index, channels in plan.by_index(graph).items():
            for axis in graph.groups[index].axes:
                if axis.parameter in parameters:
                    fill_with_zeros(parameters[axis.parameter], axis, axis.positions[channels].reshape(-1))
    return masked


def fill_with_zeros(tensor: torch.Tensor, axis: Axis, positions: Positions) -> None:
    """Set positions of one axis of a tensor to zero, in place."""
    length = axis.size // axis.blocks
    for block, part in enumerate(tensor.chunk(axis.blocks) if axis.blocks > 1 else [tensor]):
        here = torch.from_numpy(positions[positions // length == block] % length)
        part.index_fill_(axis.axis, here.to(tensor.device), 0.0)


def _check_shapes(model: nn.Module, graph: ChannelGraph, plan: Plan) -> None:
    found = {name: tuple(parameter.shape) for name, parameter in named_parameters(model).items()}
    traced = {name: tuple(share.size for share in shares) for name, shares in graph.parameters.items()}
    for name in (*traced, *found):
        if found.get(name) != traced.get(name):
            raise PlanError(
                f"the graph was traced on another network: {name} was {traced.get(name, 'missing')}, here it is "
                f"{found.get(name, 'missing')}; trace this network"
            )
    check(plan, graph)
