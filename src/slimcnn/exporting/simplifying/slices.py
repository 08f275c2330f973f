"""Replace slices with a step, which some runtimes do not support, by pooling."""

from __future__ import annotations

import sys

from torch.fx import GraphModule, Node

from slimcnn.exporting.simplifying.attributes import argument, aten, is_call


def pool_for_slices(graph: GraphModule) -> None:
    """Replace x[:, :, ::s, ::t] by max pooling with kernel size 1 and stride (s, t), which reads the same pixels.

    Only for floating-point images (n, c, h, w). Slices that take everything are removed.
    """
    for node in list(graph.graph.nodes):
        if is_call(node, aten.slice.Tensor) and _takes_all(node):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    for node in list(graph.graph.nodes):
        if not _subsamples(node):
            continue
        first = node.args[0]
        stride = [1, 1]
        stride[_axis(node) - 2] = node.args[4]
        source = first
        if _subsamples(first) and len(first.users) == 1 and _axis(first) != _axis(node):
            stride[_axis(first) - 2] = first.args[4]
            source = first.args[0]
        if any(_subsamples(user) and _axis(user) != _axis(node) for user in node.users) and len(node.users) == 1:
            continue  # merged with the next slice
        with graph.graph.inserting_before(node):
            pooled = graph.graph.call_function(aten.max_pool2d.default, (source, [1, 1], stride))
        pooled.meta = dict(node.meta)
        node.replace_all_uses_with(pooled)
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()


def _axis(node: Node) -> int:
    axis = argument(node, 1, "dim", 0)
    return int(axis) % int(node.meta["val"].dim())


def _range(node: Node) -> tuple[object, object, object]:
    return argument(node, 2, "start"), argument(node, 3, "end"), argument(node, 4, "step", 1)


def _takes_all(node: Node) -> bool:
    start, end, step = _range(node)
    return start in (None, 0) and (end is None or end == sys.maxsize) and step == 1


def _subsamples(node: object) -> bool:
    """Return whether a node is x[:, :, ::s] or x[:, :, :, ::s]."""
    if not isinstance(node, Node) or not is_call(node, aten.slice.Tensor):
        return False
    start, end, step = _range(node)
    value = node.meta["val"]
    return (
        value.dim() == 4 and value.dtype.is_floating_point and _axis(node) in (2, 3)
        and start in (None, 0) and (end is None or end == sys.maxsize) and isinstance(step, int) and step > 1
    )  # fmt: skip
