"""Behaviours that are put above a layer's class, so that the layer keeps its names, its parameters and its nature."""

from __future__ import annotations

import copyreg
from typing import Any

from torch import nn

Kind = type[nn.Module]

_MIXED: dict[tuple[Kind, Kind], Kind] = {}

_PARTS: dict[Kind, tuple[Kind, Kind]] = {}


def mixed(behaviour: Kind, kind: Kind) -> Kind:
    """Put a behaviour above a class; always the same class for the same two."""
    if (behaviour, kind) not in _MIXED:
        mixed = type(f"{behaviour.__name__}{kind.__name__}", (behaviour, kind), {})
        _MIXED[behaviour, kind] = mixed
        _PARTS[mixed] = behaviour, kind
        copyreg.pickle(mixed, _taken_apart)
    return _MIXED[behaviour, kind]


def _taken_apart(layer: nn.Module) -> tuple[Any, ...]:
    """Let pickle and copy find a class that no module holds by those that it is made of."""
    behaviours, kind = [], type(layer)
    while kind in _PARTS:
        behaviour, kind = _PARTS[kind]
        behaviours.append(behaviour)
    return _empty, (kind, *reversed(behaviours)), vars(layer)


def _empty(kind: Kind, *behaviours: Kind) -> nn.Module:
    for behaviour in behaviours:
        kind = mixed(behaviour, kind)
    return kind.__new__(kind)


def without(behaviour: Kind, kind: Kind) -> Kind:
    """Take a behaviour away from a class again; others above it stay.

    >>> class Loud(nn.Module): pass
    >>> class Slow(nn.Module): pass
    >>> without(Loud, mixed(Slow, mixed(Loud, nn.ReLU))) is mixed(Slow, nn.ReLU)
    True
    """
    if kind not in _PARTS:
        return kind
    above, below = _PARTS[kind]
    return below if above is behaviour else mixed(above, without(behaviour, below))
