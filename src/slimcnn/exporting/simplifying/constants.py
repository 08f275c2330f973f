"""Fold channels that are constant over all pixels and images, before export.

They come from residual branches that lost all their channels: such a branch adds a constant to the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from slimcnn.exporting.simplifying.attributes import aten, held, hold, is_call

Known = dict[Node, Tensor]
"""Node → its constant value, (1, c, 1, 1)."""

FILLED: Mapping[Any, Callable[..., float]] = {
    aten.new_zeros.default: lambda *_: 0.0, aten.zeros.default: lambda *_: 0.0, aten.new_ones.default: lambda *_: 1.0,
    aten.new_full.default: lambda _, __, value: value, aten.full.default: lambda _, value: value,
}  # fmt: skip
ADDING = (aten.add.Tensor, aten.add_.Tensor)
POINTWISE = (
    *ADDING, aten.sub.Tensor, aten.mul.Tensor, aten.mul_.Tensor, aten.relu.default, aten.relu_.default,
    aten.hardtanh.default, aten.hardtanh_.default, aten.silu.default, aten.gelu.default, aten.sigmoid.default,
    aten.batch_norm.default, aten.dropout.default, aten.clone.default, aten.contiguous.default,
)  # fmt: skip


def fold_constant_channels(graph: GraphModule) -> None:
    """Replace values that are constant over images and pixels by a tensor (1, c, 1, 1) where they are added."""
    known: Known = {}
    for node in list(graph.graph.nodes):
        value = _constant(graph, node, known)
        if value is not None:
            known[node] = value
        elif is_call(node, *ADDING) and len(node.args) == 2 and not node.kwargs:
            _add_constant(graph, node, known)
    graph.graph.eliminate_dead_code()


def _constant(graph: GraphModule, node: Node, known: Known) -> Tensor | None:
    made = node.meta.get("val")
    if not isinstance(made, Tensor) or made.dim() != 4 or node.op != "call_function":
        return None
    if node.target in FILLED:
        channels, value = made.shape[1], FILLED[node.target](*node.args)
        return torch.full((1, channels, 1, 1), value, dtype=made.dtype) if isinstance(channels, int) else None
    if node.target not in POINTWISE or not any(one in known for one in node.all_input_nodes):
        return None
    values = {one: known.get(one, held(graph, one)) for one in node.all_input_nodes}
    values |= {one: small for one in values if (small := _view(graph, one)) is not None}
    if any(value is None for value in values.values()):
        return None
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda one: values[one])
    with torch.no_grad():
        found: Tensor = node.target(*args, **kwargs)
    return found if found.shape == (1, made.shape[1], 1, 1) else None


def _view(graph: GraphModule, node: Node) -> Tensor | None:
    """Return the value of a reshaped parameter, such as bias.view(-1, 1, 1); None for other nodes."""
    if not is_call(node, aten.view.default, aten.reshape.default):
        return None
    value = held(graph, node.args[0])
    shape = node.args[1]
    plain = isinstance(shape, list | tuple) and all(isinstance(size, int) for size in shape)
    return value.reshape(shape) if value is not None and plain else None  # type: ignore[arg-type]


def _add_constant(graph: GraphModule, node: Node, known: Known) -> None:
    """Make an addition use the small tensor; remove additions of zeros."""
    one, other = node.args
    if one in known:
        one, other = other, one
    if other not in known or not isinstance(one, Node) or not isinstance(other, Node):
        return
    shapes = [each.meta["val"].shape for each in (one, node)]
    if len(shapes[0]) != 4 or shapes[0] != shapes[1]:
        return  # the sum takes its shape from the constant
    if not known[other].any():
        node.replace_all_uses_with(one)
        graph.graph.erase_node(node)
        return
    node.args = (one, hold(graph, f"{other.name}_constant", known[other], node))
