"""Tensors that a graph holds: reading and adding them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node


def held(graph: GraphModule, node: Any) -> Tensor | None:
    """Give the parameter or buffer that a node stands for; None for anything else."""
    if not (isinstance(node, Node) and node.op == "get_attr"):
        return None
    found: Any = graph
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return found.detach() if isinstance(found, Tensor) else None


def hold(graph: GraphModule, name: str, value: Tensor, before: Node) -> Node:
    """Let the graph hold a tensor under a name like this one; gives a node for it, in front of `before`."""
    name = name.removeprefix("model.").replace(".", "_")
    free = next(one for i in range(len(graph._buffers) + 1) if not hasattr(graph, one := f"{name}_{i}" if i else name))
    graph.register_buffer(free, value.contiguous())
    with graph.graph.inserting_before(before):
        return graph.graph.get_attr(free)


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """Give an argument of a call, wherever it is written."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def is_call(node: Any, *targets: Any) -> bool:
    """Ask whether a node calls one of these operations."""
    return isinstance(node, Node) and node.op == "call_function" and node.target in targets


aten = torch.ops.aten
