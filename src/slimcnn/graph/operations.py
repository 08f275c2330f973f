"""The table of operations: one entry for each, with everything the graph knows about it.

`rules/` fills it, one file for each family; `slimcnn.rule` adds operations from outside. An operation without an entry
still works if PyTorch tags it as pointwise; every other unknown operation locks the channels that enter it.
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
"""One label for each output tensor, missing ones empty; None for a constant that does not depend on the input."""

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
"""What code outside of the graph looks for, instead of names."""

Values = Literal["computed", "as inputs", "skipped", "needed"]
"""What a shape-only run does with an operation: compute it; compute it only if all its inputs were computed; never
compute it; or give up, since the values steer the program (`nonzero`), and run the network again with values."""

ValuesOf = Callable[[tuple[Any, ...], list[Tensor]], Values]
"""The same where it depends on the arguments; the second list holds the inputs that were not computed."""

ShapeOf = Callable[[tuple[Any, ...], dict[str, Any]], Any]
"""Allocate the outputs for these arguments without computing them, quicker than PyTorch's meta device; None: cannot."""


@dataclass(frozen=True)
class Operation:
    """One operation of PyTorch, or of the user."""

    name: str
    """As in the dispatcher, `aten.` left out: `convolution`, `my_ops.scale`."""
    rule: Rule | None = None
    """What it does to channel ids; None: not known."""
    kind: OperationKind = ""
    moves: bool = False
    """It moves channels or changes their shape."""
    sized: bool = False
    """The user's code may pass it a size that does not follow a cut (`x.view(n, 64, 49)`)."""
    parts: bool = False
    """It cuts channels into parts by numbers."""
    ordered: bool = False
    """It keeps channels in order, and none of its arguments depends on how many there are."""
    passes_empty: bool | tuple[type[nn.Module], ...] = False
    """A tensor without channels passes it: always, or only inside these layers."""
    keeps_sign: bool = False
    """Outputs are 0 or more where all inputs are."""
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
    """Teach `trace` what operations do to channels: the decorated function gives the labels of their outputs.

    With `like`, the operations behave as a known one with the same argument names; nothing is decorated then.

    Args:
        names: `"namespace.operation"`, as in `torch.ops`: `"aten.split"`, `"my_ops.scale"`.
        like: the name of a known operation.
        kind: what other parts of the package look for.
        moves: it moves channels or changes their shape.
        sized: the user's code may pass it a size that does not follow a cut.
        parts: it cuts channels into parts by numbers.
        ordered: it keeps channels in order, and no argument depends on how many there are.
        passes_empty: a tensor without channels passes it, always or only inside these layers.
        keeps_sign: its outputs are 0 or more where all inputs are.
        values: whether it is computed in a run that needs shapes only.
        shape: allocates its outputs in such a run; by default PyTorch's meta kernel does.

    Raises:
        PluginError: a name without a namespace, one that is in the table already, or an unknown name after `like`.

    >>> _ = rule("my_ops.leaky", like="aten.relu")
    >>> operation("my_ops.leaky").rule is operation("relu").rule
    True
    >>> rule("my_ops.leaky", like="aten.relu")
    Traceback (most recent call last):
    slimcnn.errors.PluginError: operation 'my_ops.leaky' has an entry already: remove one of the two rules
    """
    entry = Operation("", None, kind, moves, sized, parts, ordered, passes_empty, keeps_sign, values, shape)
    if like:
        _fill()
        known = _OPERATIONS.get(_key(like))
        if known is None:
            raise PluginError(f"rule(like={like!r}): no entry for that operation; write a rule (see docs/graph.md)")
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
    """Write out the names of several of PyTorch's own operations.

    >>> aten("view reshape")
    ['aten.view', 'aten.reshape']
    """
    return [f"aten.{name}" for name in names.split()]


def operation(name: str) -> Operation:
    """Look an operation up by its name, `aten.` left out; an empty entry if nothing is known of it.

    >>> operation("view").sized, operation("my_ops.unheard_of").rule
    (True, None)
    """
    _fill()
    return _OPERATIONS.get(name) or Operation(name)


def name_of(func: Any) -> str:
    """Name an operation of the dispatcher as this table does.

    >>> import torch
    >>> name_of(torch.ops.aten.relu.default), name_of(torch.ops.prims.convert_element_type.default)
    ('relu', 'prims.convert_element_type')
    """
    return _key(func._schema.name.replace("::", "."))


def known_operations() -> tuple[Operation, ...]:
    """List the whole table."""
    _fill()
    return tuple(_OPERATIONS.values())


def _key(name: str) -> str:
    return name.removeprefix("aten.")


def _enter(name: str, entry: Operation) -> None:
    if "." not in name:
        raise PluginError(f"rule({name!r}): write the namespace too, such as 'aten.split' or 'my_ops.scale'")
    if _key(name) in _OPERATIONS:
        raise PluginError(f"operation {name!r} has an entry already: remove one of the two rules")
    _OPERATIONS[_key(name)] = replace(entry, name=_key(name))


def _fill() -> None:
    """Import every file of rules/ when the table is first read."""
    global _filled
    if not _filled:
        _filled = True  # a file of rules may itself read the table
        for module in pkgutil.iter_modules(importlib.import_module(_RULES).__path__):
            importlib.import_module(f"{_RULES}.{module.name}")
