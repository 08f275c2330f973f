"""The table of operations: one entry for each operation, with its rule and its properties.

`rules/` fills the table, one file for each family; `slimcnn.rule` adds user-defined operations. An operation without an
entry still works if PyTorch tags it as pointwise; every other unknown operation locks its input channels.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from slimcnn.errors import PluginError
from slimcnn.graph.ids import Label

if TYPE_CHECKING:
    from slimcnn.graph.trace_record import Call
    from slimcnn.graph.tracer import Tracer

Labels = list[Label] | None
"""One label for each output tensor; missing labels are empty. None for a constant independent of the input."""

Rule = Callable[["Tracer", "Call"], Labels]

OperationKind = Literal[
    "",
    "convolution",
    "matrix product",
    "norm",
    "pooling",
    "sum",
    "difference",
    "transpose",
    "view",
    "copy",
    "placement",
]
"""Kinds by which other packages recognize operations, instead of by name."""

Values = Literal["computed", "as inputs", "skipped", "needed"]
"""How a shape-only run treats an operation: compute it; compute it only if all its inputs were computed; never compute
it; or stop and run the network again with values, because the control flow depends on them (`nonzero`)."""

ValuesOf = Callable[[tuple[Any, ...], list[Tensor]], Values]
"""A function that returns `Values` for these arguments; the second list holds the inputs that were not computed."""

ShapeOf = Callable[[tuple[Any, ...], dict[str, Any]], Any]
"""A function that allocates the outputs without computing them, faster than PyTorch's meta device; may return None."""


@dataclass(frozen=True)
class Operation:
    """One operation of PyTorch or of the user."""

    name: str
    """As in the dispatcher, without `aten.`: `convolution`, `my_ops.scale`."""
    rule: Rule | None = None
    """Its effect on channel ids; None: unknown."""
    kind: OperationKind = ""
    moves: bool = False
    """It moves channels or changes their shape."""
    sized: bool = False
    """User code may pass it a hard-coded size (`x.view(n, 64, 49)`)."""
    parts: bool = False
    """It splits channels into parts by numbers."""
    ordered: bool = False
    """It keeps the order of channels, and none of its arguments depends on their number."""
    passes_empty: bool | tuple[type[nn.Module], ...] = False
    """It accepts a tensor without channels: always, or only inside these layers."""
    keeps_sign: bool = False
    """Outputs are nonnegative if all inputs are."""
    values: Values | ValuesOf = "computed"
    shape: ShapeOf | None = None


_OPERATIONS: dict[str, Operation] = {}
_RULES = "slimcnn.graph.rules"
_filled = False


def rule(
    *names: str,
    like: str = "",
    kind: OperationKind = "",
    moves: bool = False,
    sized: bool = False,
    parts: bool = False,
    ordered: bool = False,
    passes_empty: bool | tuple[type[nn.Module], ...] = False,
    keeps_sign: bool = False,
    values: Values | ValuesOf = "computed",
    shape: ShapeOf | None = None,
) -> Callable[[Rule], Rule]:
    """Register a rule for operations: the decorated function returns the labels of their outputs.

    With `like`, the operations copy the entry of a known one with the same argument names; nothing is decorated.

    Args:
        names: `"namespace.operation"`, as in `torch.ops`: `"aten.split"`, `"my_ops.scale"`.
        like: the name of a known operation.
        kind: the kind by which other packages recognize it.
        moves: it moves channels or changes their shape.
        sized: user code may pass it a hard-coded size.
        parts: it splits channels into parts by numbers.
        ordered: it keeps the order of channels, and no argument depends on their number.
        passes_empty: it accepts a tensor without channels, always or only inside these layers.
        keeps_sign: its outputs are nonnegative if all inputs are.
        values: how a shape-only run treats it.
        shape: allocates its outputs in a shape-only run; by default PyTorch's meta kernel does.

    Raises:
        PluginError: a name without a namespace, a name that is already in the table, or an unknown name in `like`.

    >>> _ = rule("my_ops.leaky", like="aten.relu")
    >>> operation("my_ops.leaky").rule is operation("relu").rule
    True
    >>> rule("my_ops.leaky", like="aten.relu")
    Traceback (most recent call last):
    slimcnn.errors.PluginError: operation 'my_ops.leaky' already has a rule: remove one of the two
    """
    entry = Operation("", None, kind, moves, sized, parts, ordered, passes_empty, keeps_sign, values, shape)
    if like:
        _fill()
        known = _OPERATIONS.get(_key(like))
        if known is None:
            raise PluginError(f"rule(like={like!r}): this operation has no rule; write one (see docs/graph.md)")
        entry = known

    def decorate(function: Rule) -> Rule:
        if not function.__module__.startswith(_RULES):
            _fill()
        for name in names:
            _enter(name, replace(entry, rule=function))
        return function

    if like:
        for name in names:
            _enter(name, entry)
    return decorate


def aten(names: str) -> list[str]:
    """Expand the names of several PyTorch operations.

    >>> aten("view reshape")
    ['aten.view', 'aten.reshape']
    """
    return [f"aten.{name}" for name in names.split()]


def operation(name: str) -> Operation:
    """Look up an operation by its name without `aten.`; an unknown operation gets an empty entry.

    >>> operation("view").sized, operation("my_ops.unheard_of").rule
    (True, None)
    """
    _fill()
    return _OPERATIONS.get(name) or Operation(name)


def name_of(func: Any) -> str:
    """Return the name of a dispatcher operation in this table.

    >>> import torch
    >>> name_of(torch.ops.aten.relu.default), name_of(torch.ops.prims.convert_element_type.default)
    ('relu', 'prims.convert_element_type')
    """
    return _key(func._schema.name.replace("::", "."))


def known_operations() -> tuple[Operation, ...]:
    """Return all entries of the table."""
    _fill()
    return tuple(_OPERATIONS.values())


def _key(name: str) -> str:
    return name.removeprefix("aten.")


def _enter(name: str, entry: Operation) -> None:
    if "." not in name:
        raise PluginError(f"rule({name!r}): add the namespace, such as 'aten.split' or 'my_ops.scale'")
    if _key(name) in _OPERATIONS:
        raise PluginError(f"operation {name!r} already has a rule: remove one of the two")
    _OPERATIONS[_key(name)] = replace(entry, name=_key(name))


def _fill() -> None:
    """Import all files of rules/ when the table is first read."""
    global _filled
    if not _filled:
        _filled = True  # files in rules/ may read the table
        for module in pkgutil.iter_modules(importlib.import_module(_RULES).__path__):
            importlib.import_module(f"{_RULES}.{module.name}")
