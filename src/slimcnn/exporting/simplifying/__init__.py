"""Exact rewrites of a network's graph before export; they remove unsupported and unnecessary operations.

A rewrite changes a `torch.fx.GraphModule` of ATen operations, as returned by `torch.export`, in place.
"""

from torch.fx import GraphModule

from slimcnn.exporting.simplifying.batch_norm import fold_batch_norms
from slimcnn.exporting.simplifying.constants import fold_constant_channels
from slimcnn.exporting.simplifying.slices import pool_for_slices

__all__ = ["fold_batch_norms", "fold_constant_channels", "pool_for_slices", "simplify"]


def simplify(graph: GraphModule) -> None:
    """Apply all rewrites and remove unused nodes."""
    pool_for_slices(graph)
    fold_constant_channels(graph)
    fold_batch_norms(graph)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.delete_all_unused_submodules()
    graph.recompile()
