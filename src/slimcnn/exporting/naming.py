"""Operations of an OpenVINO model, called after the layers that they come from."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Any

from torch.export import ExportedProgram
from torch.fx import Node

CONVOLUTION = "aten.convolution.default"
"""What OpenVINO's converter makes of every kind of convolution."""


def name_operations(model: Any, program: ExportedProgram) -> None:
    """Call operations layer1.0.conv1/Convolution instead of convolution_3/aten.convolution.default/Convolution.

    The converter numbers the nodes of each operation in their order; where it has made more or fewer of a kind than
    the program has, these keep their names.
    """
    nodes: dict[str, list[Node]] = defaultdict(list)
    for node in program.graph.nodes:
        if node.op == "call_function":
            kind = str(node.target)
            nodes[CONVOLUTION if re.match(r"aten\.conv\w*\.\w+$", kind) else kind].append(node)
    made: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for operation in model.get_ordered_ops():
        parts = operation.get_friendly_name().split("/")
        if len(parts) == 3:
            made[parts[1]][parts[0]].append(operation)
    taken: Counter[str] = Counter()
    for kind, groups in made.items():
        if len(groups) != len(nodes[kind]):
            continue
        for node, name in zip(nodes[kind], sorted(groups, key=_number), strict=True):
            for operation in groups[name]:
                called = f"{_layer_of(node)}/{operation.get_type_name()}".lstrip("/")
                taken[called] += 1
                operation.set_friendly_name(called if taken[called] == 1 else f"{called}_{taken[called]}")


def _number(name: str) -> int:
    """The number at the end of a node's name; the first of a kind has none."""
    found = re.search(r"_(\d+)$", name)
    return int(found[1]) if found else -1


def _layer_of(node: Node) -> str:
    """The layer of the user's network that a node comes from; empty for the network itself."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]).removeprefix("model").removeprefix(".") if stack else ""
