"""Read and add the tensors of a graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node


def held(graph: GraphModule, node: Any) -> Tensor | None:
    """Return the parameter or buffer that a node refers to; None for other nodes."""
    if not (isinstance(node, Node) and node.op == "get_attr"):
        return None
    found: Any = graph
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return found.detach() if isinstance(found, Tensor) else None


def hold(graph: GraphModule, name: str, value: Tensor, before: Node) -> Node:
    """Add a tensor to the graph under a name based on `name`; return its node, inserted before `before`."""
    name = name.removeprefix("model.").replace(".", "_")
    free = next(one for i in range(len(graph._buffers) + 1) if not hasattr(graph, one := f"{name}_{i}" if i else name))
    graph.register_buffer(free, value.contiguous())
    with graph.graph.inserting_before(before):
        return graph.graph.get_attr(free)


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """Return an argument of a call, positional or keyword."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def is_call(node: Any, *targets: Any) -> bool:
    """Return whether a node calls one of these operations."""
    return isinstance(node, Node) and node.op == "call_function" and node.target in targets


aten = torch.ops.aten
