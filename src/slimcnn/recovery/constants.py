"""Constant folding: fold the constant outputs of removed channels into the layers that read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from slimcnn.graph import ChannelGraph
from slimcnn.graph.channels import layer_of
from slimcnn.graph.copying import duplicate
from slimcnn.graph.execution import call_model
from slimcnn.graph.removal import kept_positions
from slimcnn.linear.layers import LinearLayer, layers_of
from slimcnn.pruning.plan import Plan
from slimcnn.pruning.surgery import fill_with_zeros

FLAT = 1e-6
"""A channel that varies by less, relative to the largest value of a layer's input, counts as constant."""


@dataclass(frozen=True)
class FoldedConstants:
    """The layers into which constants were folded."""

    exact: tuple[str, ...] = ()
    """Layers where folding is exact except for rounding: no zero padding."""
    inside: tuple[str, ...] = ()
    """Layers where folding is exact except at the image border, which is padded with zeros, not the constant."""
    left: dict[str, str] = field(default_factory=dict)
    """Layers that were not changed, and why."""

    def __str__(self) -> str:
        text = f"constants of removed channels folded into {len(self.exact) + len(self.inside)} layers"
        text += f", exact except at the image border in {len(self.inside)}" if self.inside else ""
        return text + (f"; not possible in {len(self.left)} layers" if self.left else "")


@torch.no_grad()
def fold_constants(small: nn.Module, whole: nn.Module, graph: ChannelGraph, plan: Plan) -> FoldedConstants:
    """Compensate layers for the constant outputs of the removed channels that they read, in place.

    A channel with gamma = 0 has the value v = act(beta) everywhere. Pruning removes it, so a layer that reads it loses
    sum_k W[:, c, k] v_c. This sum is subtracted from the running mean of the layer's batch norm, or added to its bias.
    It needs no data and no training. For channels with a small gamma it is an approximation.

    Args:
        small: the network that `prune` made from `whole`; changed in place.
        whole: the network that was traced; not changed.
        graph: the channel graph of `whole`.
        plan: the channels that were removed.

    Source: Liu et al. 2017 omit the constants; the closed form is that of batch norm folding.

    >>> import slimcnn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    >>> net[1].weight.data[2], net[1].bias.data[2] = 0.0, 1.0
    >>> graph = slimcnn.trace(net, torch.zeros(1, 3, 8, 8))
    >>> plan, x = slimcnn.Plan(graph.fingerprint, {"0": (2,)}), torch.randn(1, 3, 8, 8)
    >>> small = slimcnn.prune(net, graph, plan)
    >>> bool(torch.allclose(small(x), net(x), atol=1e-5)), fold_constants(small, net, graph, plan).exact
    (False, ('3',))
    >>> bool(torch.allclose(small(x), net(x), atol=1e-5))
    True
    """
    zeroed = _zeroed(whole, graph, plan)
    layers = layers_of(zeroed, graph.example)
    reading = _readers(graph, plan, layers)
    inputs, modules = _inputs(zeroed, graph, reading), dict(small.named_modules())
    kept = kept_positions(graph, plan.by_index(graph))
    exact: list[str] = []
    inside: list[str] = []
    left: dict[str, str] = {}
    for weight, positions in reading.items():
        layer, name = layers[weight], layer_of(weight)
        given = inputs.get(name)
        why = _why_not(layer, given, positions)
        if why:
            left[name] = why
            continue
        assert given is not None
        filters = dict(zeroed.named_parameters())[weight].detach()
        sums = filters.flatten(2).sum(dim=2) if filters.dim() > 2 else filters
        values = _channels_first(layer, given)[positions].mean(dim=1)
        lost = sums[:, positions] @ values
        rows = kept.get(weight, {}).get(0)
        _add(modules, layer, lost if rows is None else lost[rows.to(lost.device)])
        (inside if any(layer.padding) else exact).append(name)
    return FoldedConstants(tuple(exact), tuple(inside), left)


def _zeroed(whole: nn.Module, graph: ChannelGraph, plan: Plan) -> nn.Module:
    """Copy a network with the norm scales of removed channels set to zero, or their filters if there is no norm."""
    zeroed = duplicate(whole).eval().to("cpu")
    tensors = dict(zeroed.named_parameters())
    for index, channels in plan.by_index(graph).items():
        group = graph.groups[index]
        for axis in group.norms or group.filters:
            fill_with_zeros(tensors[axis.parameter], axis, axis.positions[channels].reshape(-1))
    return zeroed


def _readers(graph: ChannelGraph, plan: Plan, layers: dict[str, LinearLayer]) -> dict[str, Tensor]:
    """Return the layers that read removed channels, with the positions of these channels in their inputs."""
    found: dict[str, list[Tensor]] = {}
    for index, channels in plan.by_index(graph).items():
        for axis in graph.groups[index].reads:
            layer = layers.get(axis.parameter)
            if layer is not None and axis.axis == layer.read_axis:
                found.setdefault(axis.parameter, []).append(torch.from_numpy(axis.positions[channels].reshape(-1)))
    return {name: torch.cat(positions).sort().values for name, positions in found.items()}


def _inputs(zeroed: nn.Module, graph: ChannelGraph, reading: dict[str, Tensor]) -> dict[str, Tensor]:
    """Record the inputs of layers for a random network input."""
    seen: dict[str, Tensor] = {}
    handles = []
    for weight in reading:
        name = layer_of(weight)

        def note(_: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
            if args and isinstance(args[0], Tensor):
                seen[name] = args[0]

        handles.append(zeroed.get_submodule(name).register_forward_pre_hook(note))
    generator = torch.Generator().manual_seed(0)
    call_model(
        zeroed,
        tree_map_only(
            Tensor,
            lambda t: torch.randn(t.shape, generator=generator).to(t.dtype) if t.is_floating_point() else t,
            graph.example,
        ),
    )
    for handle in handles:
        handle.remove()
    return seen


def _why_not(layer: LinearLayer, given: Tensor | None, positions: Tensor) -> str:
    if layer.groups > 1 or layer.transposed:
        return "it is a grouped or transposed convolution"
    if layer.norm is None and layer.bias is None:
        return "it has neither a bias nor its own batch norm"
    if given is None or given.dim() < 2 or len(_channels_first(layer, given)) <= int(positions.max()):
        return "its input could not be recorded"
    values = _channels_first(layer, given)[positions]
    if float((values.amax(dim=1) - values.amin(dim=1)).max()) > FLAT * max(float(given.abs().max()), 1e-12):
        return "a removed channel is not constant in its input"
    return ""


def _channels_first(layer: LinearLayer, given: Tensor) -> Tensor:
    """Return the input of a layer as (channels, rest); the channels of a linear layer are last."""
    return given.movedim(1 if layer.convolution else -1, 0).flatten(1)


def _add(modules: dict[str, nn.Module], layer: LinearLayer, lost: Tensor) -> None:
    """Add what a layer of the small network lost to its bias, or subtract it from the mean of its norm."""
    name, sign = (layer.norm.mean, -1.0) if layer.norm else (str(layer.bias), 1.0)
    tensor = getattr(modules[layer_of(name)], name.rpartition(".")[2])
    tensor.data.add_(sign * lost.to(tensor.device, tensor.dtype))
