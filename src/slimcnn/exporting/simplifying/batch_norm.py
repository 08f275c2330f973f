"""Fold batch norms into the preceding convolutions."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn.utils.fusion import fuse_conv_bn_weights

from slimcnn.exporting.simplifying.attributes import argument, aten, held, hold, is_call

CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default,
                aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding)  # fmt: skip


def fold_batch_norms(graph: GraphModule) -> None:
    """Fold every batch norm that is the only user of a convolution's output.

    w' = w gamma / sqrt(var + eps), b' = (b - mean) gamma / sqrt(var + eps) + beta, computed in float64 by
    `torch.nn.utils.fusion`. A convolution with a shared weight keeps its norm: folding would store the
    weight once per user.
    """
    readers = Counter(weight for node in graph.graph.nodes if (weight := _weight_name(node)))
    for norm in list(graph.graph.nodes):
        if not is_call(norm, aten.batch_norm.default) or argument(norm, 5, "training"):
            continue
        conv = norm.args[0]
        if not is_call(conv, *CONVOLUTIONS) or len(conv.users) > 1 or readers[_weight_name(conv)] > 1:
            continue
        folded = _folded(graph, conv, norm)
        if folded is None:
            continue
        new_weight, new_bias = folded
        name = _weight_name(conv)
        held_bias = f"{name.removesuffix('weight')}bias"
        conv.args = (
            conv.args[0],
            hold(graph, name, new_weight, conv),
            hold(graph, held_bias, new_bias, conv),
            *conv.args[3:],
        )
        norm.replace_all_uses_with(conv)
        graph.graph.erase_node(norm)


def _weight_name(node: Node) -> str:
    weight = node.args[1] if is_call(node, *CONVOLUTIONS) and len(node.args) > 1 else None
    return str(weight.target) if isinstance(weight, Node) else ""


def _folded(graph: GraphModule, conv: Node, norm: Node) -> tuple[Tensor, Tensor] | None:
    """Return weight and bias with the norm folded in; None if the network computes one of the tensors."""
    weight, bias = held(graph, conv.args[1]), held(graph, argument(conv, 2, "bias"))
    gamma, beta, mean, variance = (held(graph, norm.args[i]) for i in (1, 2, 3, 4))
    unknown = [(conv, 2, bias), (norm, 1, gamma), (norm, 2, beta)]
    if weight is None or mean is None or variance is None:
        return None
    if any(value is None and argument(node, i, "bias") is not None for node, i, value in unknown):
        return None
    doubles: list[Any] = [None if t is None else t.double() for t in (bias, mean, variance, gamma, beta)]
    b, rm, rv, g, s = doubles
    made = fuse_conv_bn_weights(weight.double(), b, rm, rv, float(argument(norm, 7, "eps")), g, s)
    return made[0].detach().to(weight.dtype), made[1].detach().to(weight.dtype)
