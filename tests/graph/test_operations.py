"""The table of operations: one entry for each, open to users."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

import slimcnn
from slimcnn import graph
from slimcnn.errors import PluginError
from slimcnn.graph.operations import _OPERATIONS, Labels, OperationKind, known_operations, operation, rule
from slimcnn.graph.trace_record import Call
from slimcnn.graph.tracer import Tracer

SOURCE = Path(graph.__file__).parent


@torch.library.custom_op("slimcnn_tests::double", mutates_args=())
def double(x: Tensor) -> Tensor:
    return x * 2


@torch.library.custom_op("slimcnn_tests::scale_channels", mutates_args=())
def scale_channels(x: Tensor, scale: Tensor) -> Tensor:
    return x * scale.view(1, -1, 1, 1)


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.scale = nn.Parameter(torch.arange(8.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(double(scale_channels(self.a(x), self.scale)))  # type: ignore[no-any-return]


@pytest.fixture
def table_restored() -> Iterator[None]:
    known_operations()
    before = dict(_OPERATIONS)
    yield
    _OPERATIONS.clear()
    _OPERATIONS.update(before)


@pytest.mark.usefixtures("table_restored")
def test_a_rule_from_outside_frees_the_channels_that_an_unknown_operation_locks() -> None:
    net, x = Custom(), torch.rand(1, 3, 4, 4)
    locked = slimcnn.trace(net, x)
    assert not locked.groups
    assert "slimcnn.rule('slimcnn_tests.scale_channels', like='aten.relu')" in locked.locked[0].reason

    slimcnn.rule("slimcnn_tests.double", like="aten.relu")

    @slimcnn.rule("slimcnn_tests.scale_channels")
    def scaled(tracer: Tracer, call: Call) -> Labels:
        """Channel c of the input meets number c of the scale."""
        channels, scales = tracer.label(call["x"]), tracer.label(call["scale"])
        for facet, scale in zip(channels, scales, strict=True):
            tracer.tie(facet, scale.view(1, -1, 1, 1).expand(facet.shape), call)
        return [channels]

    found = slimcnn.trace(net, x)
    assert [group.name for group in found.groups] == ["a"]
    assert "scale" in {axis.parameter for axis in found.groups[0].axes}
    plan = slimcnn.allocate(found, slimcnn.score(net, found, "l1"), slimcnn.Target(macs=0.5))
    slimcnn.prune(net, found, plan)  # proves prune == mask


@pytest.mark.usefixtures("table_restored")
def test_a_wrong_rule_is_refused_with_what_to_do() -> None:
    with pytest.raises(PluginError, match=r"'aten\.relu' already has a rule: remove one"):
        rule("aten.relu", like="aten.gelu")
    with pytest.raises(PluginError, match="add the namespace"):
        rule("double", like="aten.relu")
    with pytest.raises(PluginError, match=r"this operation has no rule; write one \(see docs/graph.md\)"):
        rule("my_ops.one", like="my_ops.other")
    assert operation("my_ops.one").rule is None


def words_in(path: Path) -> Iterator[str]:
    """Every word of every string that is neither a docstring nor part of a message."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            words = node.value.replace("aten::", "").replace("aten.", "").split()
            if all(word.replace("_", "").isalnum() for word in words):
                yield from words


ALSO_ENGLISH = {"index", "where", *get_args(OperationKind)}
"""Names of operations that are also plain words, or kinds of operations."""


def test_no_operation_is_known_in_two_places() -> None:
    """What the graph and the linear solver know about an operation stands in its entry, and nowhere else."""
    names = {op.name for op in known_operations()} - ALSO_ENGLISH
    others = [path for room in ("graph", "linear") for path in (SOURCE.parent / room).rglob("*.py")]
    twice = {
        (path.name, word) for path in others if path.parent.name != "rules" for word in words_in(path) if word in names
    }
    assert not twice
