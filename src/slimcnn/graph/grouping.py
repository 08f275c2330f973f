"""Form channel groups: free channels that own the same axes and have the same constraints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from slimcnn.graph.axis_ids import AxisIds
from slimcnn.graph.branches import branches, feeding, needed
from slimcnn.graph.channels import Axis, ChannelGroup, Mask, Positions, layer_of
from slimcnn.graph.equal_counts import EqualCounts, same_rows, same_value
from slimcnn.graph.operations import operation
from slimcnn.graph.partition import Constraints, Partition
from slimcnn.graph.trace_record import EqualParts, LockRecord, TraceRecord

UNMADE, TRAINED = "no layer produces these channels", "runs in training mode only"

TOO_FEW = "fewer than three independent channels: too few for a trial cut"

ONE_EACH = "the only channel of its part: without it the part would be empty"


@dataclass(frozen=True)
class Traced:
    """The axes of a network, the record of its runs, and everything that does not depend on locks."""

    axis_ids: AxisIds
    record: TraceRecord
    ids: int
    """Number of ids, including those created during the run."""
    makers: Mapping[int, int]
    """Axes (by index in `axis_ids`) of weights that produce channels → their rank in the network's order."""
    trained: frozenset[int]
    """Axes of weights that produce channels in training mode only."""
    norms: frozenset[int]
    """Axes of batch-norm scales."""
    reads: frozenset[int]
    """Axes of weights that read channels."""
    images: int
    """Samples in the first run."""
    unreached: tuple[str, ...]
    """Weights that no run read."""
    needed: Mask
    """Ids that cannot all be removed."""

    @classmethod
    def of(
        cls, model: nn.Module, axis_ids: AxisIds, record: TraceRecord, ids: int, images: int, unreached: Sequence[str]
    ) -> Traced:
        """Classify the axes of a network by how its layers use them."""
        makers: dict[int, int] = {}
        for axes in produced(axis_ids, record):
            for axis in axes:
                makers.setdefault(axis, len(makers))
        readers = [c.read for c in record.contractions if c.read is not None and not c.training]
        return cls(
            axis_ids,
            record,
            ids,
            makers,
            trained=frozenset(axis for axes in produced(axis_ids, record, training=True) for axis in axes),
            norms=frozenset(axis for one in record.norms for axis in axes_of(axis_ids, one)),
            reads=frozenset(axis for read in readers for axis in axes_of(axis_ids, read)),
            images=images,
            unreached=tuple(unreached),
            needed=needed(model, record, ids),
        )


@dataclass(frozen=True)
class Alike:
    """Components that own the same number of positions of the same axes."""

    axes: tuple[int, ...]
    """The axis of every column."""
    components: Positions
    ids: Positions
    """(components, columns)."""


@dataclass(frozen=True)
class Grouped:
    """The groups, the partition of the ids, and the final constraints."""

    groups: tuple[ChannelGroup, ...]
    bundles: tuple[tuple[int, ...], ...]
    partition: Partition
    constraints: Constraints


def produced(axis_ids: AxisIds, record: TraceRecord, training: bool = False) -> Iterator[dict[int, Positions]]:
    """Yield, for every layer in network order, the weight axes that produce its channels, with their ids.

    With `training`, only layers that run in training mode only; otherwise only layers that run in eval mode.
    """
    for contraction in record.contractions:
        if contraction.produced is not None and contraction.training == training:
            yield axes_of(axis_ids, contraction.produced)


def axes_of(axis_ids: AxisIds, ids: Tensor) -> dict[int, Positions]:
    """Sort ids by their axis; ids of no axis (padded zeros) are left out."""
    numbers = ids.numpy()
    if len(numbers):
        first, last = axis_ids.locate_one(int(numbers.min())), axis_ids.locate_one(int(numbers.max()))
        if first == last:
            return {first: numbers} if first >= 0 else {}
    axes = axis_ids.locate(numbers)
    return {int(axis): numbers[axes == axis] for axis in dict.fromkeys(axes.tolist()) if axis >= 0}


def group(traced: Traced, constraints: Constraints) -> Grouped:
    """Group the free components."""
    constraints, alike, cell, bundle = _resolve(traced, constraints)
    component = constraints.components.component
    found = []
    for one in alike:
        makers = [axis for axis in dict.fromkeys(one.axes) if axis in traced.makers]
        first = min(makers, key=traced.makers.__getitem__)
        for bound in np.unique(bundle[one.components]):
            here = bundle[one.components] == bound
            first_ids = one.ids[here][:, np.array(one.axes) == first].min(axis=1)
            rows = np.flatnonzero(here)[np.argsort(first_ids)]
            place = (traced.makers[first], int(first_ids.min()))
            found.append((place, first, Alike(one.axes, one.components[rows], one.ids[rows]), int(bound)))
    found.sort(key=lambda item: item[0])
    owner = np.full(constraints.components.number, -1, dtype=np.int64)
    channel = owner.copy()
    bundles: dict[int, list[int]] = defaultdict(list)
    groups: list[ChannelGroup] = []
    names: set[str] = set()
    for index, (_, first, one, bound) in enumerate(found):
        owner[one.components], channel[one.components] = index, np.arange(len(one.components))
        bundles[bound].append(index)
        made = _group(traced, constraints, first, one)
        name = f"{made.name}:{traced.axis_ids.axes[first]}" if made.name in names else made.name
        names.add(name)
        parts = same_value(cell[one.components])
        groups.append(replace(made, name=name, parts=parts, least=max(made.least, len(parts))))
    partition = Partition(component, owner, channel)
    return Grouped(
        _with_branches(traced, partition, groups), tuple(map(tuple, bundles.values())), partition, constraints
    )


def _with_branches(traced: Traced, partition: Partition, groups: list[ChannelGroup]) -> tuple[ChannelGroup, ...]:
    """Set `feeds` and `branch` of every group."""
    feeds = feeding(traced.record, partition, len(groups))
    free = branches(traced.needed, partition, feeds, [one.residual for one in groups])
    return tuple(replace(g, feeds=made, branch=may) for g, made, may in zip(groups, feeds, free, strict=True))


def _resolve(traced: Traced, constraints: Constraints) -> tuple[Constraints, list[Alike], Positions, Positions]:
    """Lock and tie until all free components can be pruned; return the constraints, classes, cells and bundles.

    The components of a cell lie in the same part of every split; all cells of a bundle lose the same number of
    channels.
    """
    while True:
        alike = _alike(traced.axis_ids, constraints)
        wrong = [
            LockRecord(torch.from_numpy(one.ids.reshape(-1)), reason, None)
            for one in alike
            if (reason := _lock_reason(traced, one))
        ]
        if wrong:
            constraints = constraints.lock(wrong)
            continue
        constraints = constraints.release(_whole_parts(constraints))
        component = constraints.components.component
        cells = EqualCounts.of([one.components for one in alike], constraints.components.number)
        tables = [component[part.rows.numpy()] for part in constraints.parts]
        for table in tables:
            cells.refine(table)
        for piece in traced.record.pieces:
            cells.separate(component[piece.numpy()])
        uneven = [part for part, table in zip(constraints.parts, tables, strict=True) if not cells.even(table)]
        if uneven:
            constraints = constraints.tie(uneven)
            continue
        lonely = cells.lonely(tables)
        if not len(lonely):
            return constraints, alike, cells.cell, cells.bundles(tables)
        members = np.flatnonzero(np.isin(component[: len(traced.axis_ids)], lonely))
        constraints = constraints.lock([LockRecord(torch.from_numpy(members), ONE_EACH, None)])


def _whole_parts(constraints: Constraints) -> list[EqualParts]:
    """List the views as (parts, channels) in which every part is a single channel, as in a norm over groups.

    Equal counts would allow no cut there. That it is the number of channels in a part that changes, and not the number
    of parts, was an assumption; the trial cuts check the other one: whole parts are removed.
    """
    component = constraints.components.component
    found = []
    for part in constraints.parts:
        if operation(part.site.op).kind == "view" and len(part.rows) > 2:  # a trial cut must leave two
            table = component[part.rows.numpy()]
            if (table == table[:, :1]).all() and len(np.unique(table[:, 0])) == len(table):
                found.append(part)
    return found


def _lock_reason(traced: Traced, one: Alike) -> str:
    """Return why components cannot form a group; empty if they can."""
    if traced.makers.keys().isdisjoint(one.axes):
        return UNMADE if traced.trained.isdisjoint(one.axes) else TRAINED
    return TOO_FEW if _too_small(one.axes, len(one.components)) else ""


def _too_small(axes: tuple[int, ...], channels: int) -> bool:
    """Whether removing one channel leaves an axis fewer than two positions: too few to check their order."""
    return min(map(axes.count, set(axes))) * (channels - 1) < 2


def _alike(axis_ids: AxisIds, constraints: Constraints) -> list[Alike]:
    """Classify free components by the axes on which they own positions."""
    component = constraints.components.component
    ids = np.arange(len(axis_ids), dtype=np.int64)
    ids = ids[~constraints.locks.mask[component[ids]]]
    ids = ids[np.argsort(component[ids], kind="stable")]
    axes, components = axis_ids.locate(ids), component[ids]
    borders = np.flatnonzero(np.r_[True, np.diff(components) > 0, True]) if len(ids) else np.zeros(0, np.int64)
    alike = []
    lengths = np.diff(borders)
    for length in np.unique(lengths).tolist():
        firsts = borders[:-1][lengths == length]
        index = firsts[:, None] + np.arange(length)
        for signature, rows in same_rows(axes[index]):
            alike.append(Alike(tuple(signature.tolist()), components[firsts[rows]], ids[index[rows]]))
    return alike


def _group(traced: Traced, constraints: Constraints, first: int, one: Alike) -> ChannelGroup:
    """Create a group of components, named after the first axis that produces them."""
    axis_ids, components, makers = traced.axis_ids, constraints.components, traced.makers
    columns = np.array(one.axes)
    owned = {axis: _axis(axis_ids, axis, one.ids[:, columns == axis]) for axis in dict.fromkeys(one.axes)}
    name = name_of_channels(owned[first].parameter)
    if owned[first].positions.size < axis_ids.sizes[first]:
        name += f"[{_ranges(np.sort(owned[first].positions.reshape(-1)))}]"
    any_component = int(one.components[0])
    return ChannelGroup(
        name=name,
        channels=len(one.components),
        axes=tuple(owned.values()),
        filters=tuple(owned[axis] for axis in sorted(owned, key=lambda a: makers.get(a, -1)) if axis in makers),
        norms=_axes_in(owned, traced.norms),
        reads=_axes_in(owned, traced.reads),
        residual=sum(axis in makers for axis in owned) > 1 and bool(components.added[any_component]),
        inexact=components.inexact.get(any_component, ""),
        least=2 if components.squeezed[any_component] else 1,
    )


def _axis(axis_ids: AxisIds, axis: int, ids: Positions) -> Axis:
    return Axis(
        parameter=axis_ids.names[axis],
        axis=axis_ids.axes[axis],
        size=int(axis_ids.sizes[axis]),
        positions=ids - axis_ids.starts[axis],
        blocks=axis_ids.blocks[axis],
    )


def _axes_in(owned: Mapping[int, Axis], wanted: Collection[int]) -> tuple[Axis, ...]:
    return tuple(axis for number, axis in owned.items() if number in wanted)


def name_of_channels(parameter: str) -> str:
    """Name the channels that a parameter produces: the layer's name for a layer's weight, else the parameter's name.

    >>> name_of_channels("stem.conv.weight"), name_of_channels("stem.mixing")
    ('stem.conv', 'stem.mixing')
    """
    layer, own = layer_of(parameter), parameter.rpartition(".")[2]
    return layer if layer and (own in ("weight", "weight_v") or own.startswith("original")) else parameter


def _ranges(positions: Positions) -> str:
    """Format positions as ranges.

    >>> _ranges(np.array([0, 1, 2, 7]))
    '0-2,7'
    """
    breaks = np.flatnonzero(np.diff(positions) > 1)
    starts, ends = np.r_[positions[0], positions[breaks + 1]], np.r_[positions[breaks], positions[-1]]
    return ",".join(f"{a}-{b}" if a != b else f"{a}" for a, b in zip(starts, ends, strict=True))
