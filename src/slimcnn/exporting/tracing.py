"""Trace a graph to TorchScript, for formats that read only TorchScript."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node


def traced(program: ExportedProgram, example: tuple[Tensor, ...]) -> torch.jit.ScriptModule:
    """Trace a graph to TorchScript; dynamic sizes stay dynamic."""
    unlifted = program.module(check_guards=False)
    module = GraphModule(unlifted, unlifted.graph)  # drops the input check, which cannot be traced
    for node in list(module.graph.nodes):
        if node.target is torch.ops.aten.sym_size.int:  # tracing supports only the size method
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(module.graph.call_method("size", node.args))
        elif node.target is torch.ops.aten.channel_shuffle.default:
            _shuffle_by_views(module.graph, node)
    module.graph.eliminate_dead_code()
    for node in list(module.graph.nodes):
        if node.op == "call_function" and not node.users and "assert" in str(node.target):
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    found: torch.jit.ScriptModule = torch.jit.trace(module, example, check_trace=False)
    return found


def _shuffle_by_views(graph: Graph, node: Node) -> None:
    """Replace a channel shuffle by views, which converters support: (n, g, c/g, h, w), swap axes, (n, c, h, w)."""
    x, groups = node.args
    assert isinstance(x, Node)
    n, c, *space = x.meta["val"].shape
    if not isinstance(groups, int) or not all(isinstance(size, int) for size in (n, c, *space)):
        return
    with graph.inserting_before(node):
        parts = graph.call_method("view", (x, n, groups, c // groups, *space))
        exchanged = graph.call_function(torch.transpose, (parts, 1, 2))
        node.replace_all_uses_with(graph.call_method("reshape", (exchanged, n, c, *space)))
