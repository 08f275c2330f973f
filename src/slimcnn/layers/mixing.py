"""Behaviors that are put above a layer's class, so that the layer keeps its names, its parameters and its nature."""

from __future__ import annotations

import copyreg
from typing import Any

from torch import nn

Kind = type[nn.Module]

_MIXED: dict[tuple[Kind, Kind], Kind] = {}

_PARTS: dict[Kind, tuple[Kind, Kind]] = {}


def mixed(behavior: Kind, kind: Kind) -> Kind:
    """Put a behavior above a class; always the same class for the same two."""
    if (behavior, kind) not in _MIXED:
        mixed = type(f"{behavior.__name__}{kind.__name__}", (behavior, kind), {})
        _MIXED[behavior, kind] = mixed
        _PARTS[mixed] = behavior, kind
        copyreg.pickle(mixed, _taken_apart)
    return _MIXED[behavior, kind]


def _taken_apart(layer: nn.Module) -> tuple[Any, ...]:
    """Let pickle and copy find a class that no module holds by those that it is made of."""
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
    """Take a behavior away from a class again; others above it stay.

    >>> class Loud(nn.Module): pass
    >>> class Slow(nn.Module): pass
    >>> without(Loud, mixed(Slow, mixed(Loud, nn.ReLU))) is mixed(Slow, nn.ReLU)
    True
    """
    if kind not in _PARTS:
        return kind
    above, below = _PARTS[kind]
    return below if above is behavior else mixed(above, without(behavior, below))
