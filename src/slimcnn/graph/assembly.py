"""Assemble the channel graph: groups, and how sizes and costs depend on them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from torch import Tensor, nn

from slimcnn.graph.activations import LiveTensor, Timeline
from slimcnn.graph.axis_ids import AxisIds
from slimcnn.graph.channels import (
    ChannelGraph,
    ChannelGroup,
    Contraction,
    Locked,
    Positions,
    SizeAttribute,
    StoredTensor,
)
from slimcnn.graph.fast.module_tree import named_parameters, named_tensors
from slimcnn.graph.grouping import Grouped, Traced, group, name_of_channels, produced
from slimcnn.graph.ids import core, varies
from slimcnn.graph.locks import Locks
from slimcnn.graph.partition import Constraints, Partition
from slimcnn.graph.sharing import Owners, Share
from slimcnn.graph.size_attributes import SizeGuess


@dataclass(frozen=True)
class Assembled:
    """A channel graph, with the partition of ids and the constraints behind it."""

    graph: ChannelGraph
    partition: Partition
    constraints: Constraints


def assemble(model: nn.Module, example: Any, batch: int, traced: Traced, constraints: Constraints) -> Assembled:
    """Group the free channels, and build the channel graph."""
    found = group(traced, constraints)
    owners = Owners.of(found.partition.component, found.partition.owner)
    shared = _shares(traced.axis_ids, owners)
    graph = ChannelGraph(
        groups=found.groups,
        locked=_locked(traced, found),
        contractions=_contractions(traced, owners),
        parameters={name: _shares_of(name, one, shared) for name, one in named_parameters(model).items()},
        stored=_stored(model, shared),
        sizes=_sizes(traced, found),
        bundles=found.bundles,
        fingerprint=_fingerprint(traced.axis_ids, found.groups),
        example=example,
        timeline=_timeline(traced, owners, len(found.groups)),
        batch=batch,
    )
    return Assembled(graph, found.partition, found.constraints)


def _contractions(traced: Traced, owners: Owners) -> tuple[Contraction, ...]:
    return tuple(
        Contraction(
            module=one.module,
            macs=one.macs // traced.images if one.per_batch else one.macs,
            shares=tuple(map(owners.share, one.shares)),
        )
        for one in traced.record.contractions
    )


def _sizes(traced: Traced, found: Grouped) -> tuple[SizeAttribute, ...]:
    """List the size attributes: the sizes of every channel pad, and all guesses."""
    pads = [
        SizeGuess(name, side, None, ids)
        for name, *both in traced.record.pads
        for side, ids in zip(("front", "back"), both, strict=True)
    ]
    sizes = {
        guess.key: SizeAttribute(*guess.key, _channels_of(guess.ids, found.partition))
        for guess in (*pads, *found.constraints.sizes)
    }
    return tuple(sizes.values())


def _channels_of(ids: Tensor, partition: Partition) -> Positions:
    components = partition.component[ids.numpy()]
    return np.stack([partition.owner[components], partition.channel[components]], axis=1)


def _shares(axis_ids: AxisIds, owners: Owners) -> dict[tuple[str, int], Share]:
    """Return the share of every axis of every tensor; an axis of size 1 has no channels."""
    starts, sizes = axis_ids.starts.tolist(), axis_ids.sizes.tolist()
    rows = zip(axis_ids.names, axis_ids.axes, starts, sizes, axis_ids.blocks, strict=True)
    return {
        (name, axis): owners.share_of(owners.component[start : start + size], size // blocks, blocks)
        for name, axis, start, size, blocks in rows
    }


def _timeline(traced: Traced, owners: Owners, groups: int) -> Timeline:
    """Scale the memory of the run, which used a doubled batch, to one image."""
    found = []
    for life, label in traced.record.memory:
        shares = tuple(owners.share(core(facet).reshape(-1)) for facet in label if varies(facet))
        whole = life.elements // traced.images if life.elements % traced.images == 0 else life.elements
        found.append(LiveTensor(life, whole, shares))
    return Timeline(found, groups)


def _locked(traced: Traced, grouped: Grouped) -> tuple[Locked, ...]:
    """List the locked output channels of every layer, with their reasons."""
    axis_ids, record = traced.axis_ids, traced.record
    component, locks = grouped.partition.component, grouped.constraints.locks
    found: dict[tuple[str, str, str], int] = {}
    totals: dict[str, int] = {}
    seen: set[int] = set()
    for axes in chain(produced(axis_ids, record), produced(axis_ids, record, training=True)):
        for axis in axes.keys() - seen:
            seen.add(axis)
            layer = name_of_channels(axis_ids.names[axis])
            first, size = int(axis_ids.starts[axis]), int(axis_ids.sizes[axis])
            totals[layer] = size
            for lock, channels in locks.counted(component[first : first + size]):
                key = (layer, lock.reason, str(lock.site) if lock.site else "")
                found[key] = found.get(key, 0) + channels
    for made in record.contractions:
        if made.lost and made.module not in totals:
            totals[made.module] = made.lost
            found[(made.module, *_why_lost(made.module, axis_ids, component, locks))] = made.lost
    for name in traced.unreached:
        layer = name_of_channels(name)
        if layer not in totals:
            totals[layer] = axis_ids.shapes[name][0]
            found[layer, "no run reached this weight; it keeps its shape", ""] = totals[layer]
    return tuple(Locked(layer, n, totals[layer], why, where) for (layer, why, where), n in found.items())


def _why_lost(layer: str, axis_ids: AxisIds, component: Positions, locks: Locks) -> tuple[str, str]:
    """Return the reason and site that locked the parameters behind a layer's weight."""
    for name, start in zip(axis_ids.names, axis_ids.starts, strict=True):
        lock = locks.of(int(component[start])) if name_of_channels(name) == layer else None
        if lock is not None and lock.site is not None:
            return lock.reason, str(lock.site)
    return "its weight is computed in an unsupported way", ""


def _stored(model: nn.Module, shared: Mapping[tuple[str, int], Share]) -> tuple[StoredTensor, ...]:
    """List the tensors of `state_dict`; it leaves out non-persistent buffers."""
    held = {id(tensor) for tensor in model.state_dict(keep_vars=True).values() if isinstance(tensor, Tensor)}
    return tuple(
        StoredTensor(_shares_of(name, tensor, shared), tensor.element_size())
        for name, tensor in named_tensors(model)
        if id(tensor) in held
    )


def _shares_of(name: str, tensor: Tensor, shared: Mapping[tuple[str, int], Share]) -> tuple[Share, ...]:
    return tuple(shared.get((name, axis), Share(size, {})) for axis, size in enumerate(tensor.shape))


def _fingerprint(axis_ids: AxisIds, groups: tuple[ChannelGroup, ...]) -> str:
    shapes = [(name, tuple(shape)) for name, shape in axis_ids.shapes.items()]
    owned = [
        (g.name, g.channels, len(g.parts), [(a.parameter, a.axis, a.positions.shape) for a in g.axes]) for g in groups
    ]
    return hashlib.sha256(repr((shapes, owned)).encode()).hexdigest()[:16]
