"""Name the operations of an OpenVINO model after the layers they come from."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Any

from torch.export import ExportedProgram
from torch.fx import Node

CONVOLUTION = "aten.convolution.default"
"""OpenVINO's converter turns every kind of convolution into this operation."""


def name_operations(model: Any, program: ExportedProgram) -> None:
    """Rename operations: layer1.0.conv1/Convolution, not convolution_3/aten.convolution.default/Convolution.

    The converter numbers the nodes of each operation in order. Operations of a kind keep their names if the converter
    created more or fewer of them than the program has.
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
    """Return the number at the end of a node's name; -1 if there is none, as for the first of a kind."""
    found = re.search(r"_(\d+)$", name)
    return int(found[1]) if found else -1


def _layer_of(node: Node) -> str:
    """Return the layer of the user's network that a node comes from; empty for the network itself."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]).removeprefix("model").removeprefix(".") if stack else ""
