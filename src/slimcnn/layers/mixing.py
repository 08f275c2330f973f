"""Add a behavior to a layer by a mixin class; the layer keeps its name, its parameters and its `isinstance` type."""

from __future__ import annotations

import copyreg
from typing import Any

from torch import nn

Kind = type[nn.Module]

_MIXED: dict[tuple[Kind, Kind], Kind] = {}

_PARTS: dict[Kind, tuple[Kind, Kind]] = {}


def mixed(behavior: Kind, kind: Kind) -> Kind:
    """Return the class that adds a behavior to a layer class; the same two always give the same class."""
    if (behavior, kind) not in _MIXED:
        mixed = type(f"{behavior.__name__}{kind.__name__}", (behavior, kind), {})
        _MIXED[behavior, kind] = mixed
        _PARTS[mixed] = behavior, kind
        copyreg.pickle(mixed, _reduce)
    return _MIXED[behavior, kind]


def _reduce(layer: nn.Module) -> tuple[Any, ...]:
    """Pickle and copy a layer by the parts of its class, which no module defines."""
    behaviors, kind = [], type(layer)
    while kind in _PARTS:
        behavior, kind = _PARTS[kind]
        behaviors.append(behavior)
    return _empty, (kind, *reversed(behaviors)), vars(layer)


def _empty(kind: Kind, *behaviors: Kind) -> nn.Module:
    for behavior in behaviors:
        kind = mixed(behavior, kind)
    return kind.__new__(kind)


def without(behavior: Kind, kind: Kind) -> Kind:
    """Return a class without one of its behaviors; the others stay.

    >>> class Loud(nn.Module): pass
    >>> class Slow(nn.Module): pass
    >>> without(Loud, mixed(Slow, mixed(Loud, nn.ReLU))) is mixed(Slow, nn.ReLU)
    True
    """
    if kind not in _PARTS:
        return kind
    above, below = _PARTS[kind]
    return below if above is behavior else mixed(above, without(behavior, below))


def is_mixed(kind: Kind) -> bool:
    """Return whether a class was made by `mixed`."""
    return kind in _PARTS
