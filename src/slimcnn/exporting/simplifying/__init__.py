"""Rewrites of a network's graph before export, each exact: what runtimes do not know or should not pay for goes.

A rewrite takes a `torch.fx.GraphModule` of ATen operations, as `torch.export` gives it, and changes it in place.
"""

from torch.fx import GraphModule

from slimcnn.exporting.simplifying.batch_norm import fold_batch_norms
from slimcnn.exporting.simplifying.constants import fold_constant_channels
from slimcnn.exporting.simplifying.slices import pool_for_slices

__all__ = ["fold_batch_norms", "fold_constant_channels", "pool_for_slices", "simplify"]


def simplify(graph: GraphModule) -> None:
    """Apply all rewrites, and drop what nothing reads any more."""
    pool_for_slices(graph)
    fold_constant_channels(graph)
    fold_batch_norms(graph)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.delete_all_unused_submodules()
    graph.recompile()
