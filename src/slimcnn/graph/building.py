"""From what one run taught to the graph: components, locks, and groups of what is left."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from slimcnn.graph.atoms import Atoms, named_tensors
from slimcnn.graph.channels import Axis, ChannelGraph, ChannelGroup, Contraction, Locked, Positions, Share, layer_of
from slimcnn.graph.ids import ids_in
from slimcnn.graph.ledger import Ledger, LockRecord, as_pairs

TOO_FEW = "its channels hang together in one or two parts: too few to try a cut"


class GraphBuilder:
    """Components of the equalities, the locks on them, and the groups that are left."""

    def __init__(self, atoms: Atoms, ledger: Ledger, n_ids: int) -> None:
        self.atoms = atoms
        self.ledger = ledger
        pairs = np.concatenate([as_pairs(ledger), _pads_of_one_module(ledger)])
        links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n_ids, n_ids))
        self.component: Positions = connected_components(links, directed=False)[1].astype(np.int64)
        self.owner: Positions = np.full(int(self.component.max(initial=-1)) + 1, -1, dtype=np.int64)
        """Group of every component in the graph built last; -1 for locked ones."""
        self.channel: Positions = self.owner
        """Its channel there."""
        self.locks: dict[int, LockRecord] = {}
        self.blamed: dict[tuple[str, int], set[str]] = defaultdict(set)
        """Lines of code that broke a trial cut, with the modules in which they did."""
        self._added = np.zeros(len(self.owner), dtype=np.bool_)
        """Components in which channels of different layers are added."""
        for a, _, site in ledger.equal:
            if site.op in ("add", "add_", "sub", "sub_"):
                self._added[self.component[a.numpy()]] = True
        self._squeezed = np.zeros(len(self.owner), dtype=np.bool_)
        """Components on an axis that a `squeeze` would swallow if one channel were left."""
        for label in ledger.squeezed:
            self._squeezed[self.component[ids_in(label).numpy()]] = True
        self.lock(ledger.locks)

    def lock(self, records: list[LockRecord]) -> None:
        """Lock the components of these ids; the first reason that names a place stays."""
        for record in records:
            for component in np.unique(self.component[record.ids.numpy()]):
                known = self.locks.get(int(component))
                if known is None or (known.site is None and record.site is not None):
                    self.locks[int(component)] = record

    def graph(self, model: nn.Module, example: Any, batch: int) -> ChannelGraph:
        """Assemble the graph from what is not locked."""
        groups, owner, channel = self._groups()
        self.owner, self.channel = owner, channel
        channels = self._channels(owner)
        contractions = tuple(
            Contraction(
                module=record.module,
                macs=record.macs // (2 * batch) if record.per_batch else record.macs,  # traced on every sample twice
                shares=tuple(self._share(ids, owner, channels) for ids in record.shares),
            )
            for record in self.ledger.contractions
        )
        pads = {
            name: (self._pairs(front, owner, channel), self._pairs(back, owner, channel))
            for name, front, back in self.ledger.pads
        }
        return ChannelGraph(
            groups=groups,
            locked=self._locked(),
            contractions=contractions,
            parameters=self._parameters(model, owner, channels),
            pads=pads,
            fingerprint=_fingerprint(model, groups),
            example=example,
            batch=batch,
        )

    def _groups(self) -> tuple[tuple[ChannelGroup, ...], Positions, Positions]:
        """Gather free components with the same signature; give owner and channel of every component."""
        order: dict[int, int] = {}
        for axes_here in self._produced():
            for axis in axes_here:
                order.setdefault(axis, len(order))
        norms = {axis for ids in self.ledger.norms for axis in self._axes_of(ids)}
        reads = {axis for c in self.ledger.contractions if c.read is not None for axis in self._axes_of(c.read)}
        owner = np.full(int(self.component.max(initial=-1)) + 1, -1, dtype=np.int64)
        channel = owner.copy()
        found = []
        for axes, components, atoms in self._alike():
            makers = [axis for axis in dict.fromkeys(axes) if axis in order]
            if not makers or _leaves_one(axes, len(components)):
                reason = TOO_FEW if makers else "no layer produces these"
                self.lock([LockRecord(torch.from_numpy(atoms.reshape(-1)), reason, None)])
                continue
            first = min(makers, key=order.__getitem__)
            rows = np.argsort(atoms[:, np.array(axes) == first].min(axis=1))
            found.append((order[first], int(atoms[rows[0]].min()), first, axes, components[rows], atoms[rows]))
        found.sort(key=lambda item: item[:2])
        groups: list[ChannelGroup] = []
        for index, (_, _, first, axes, components, atoms) in enumerate(found):
            owner[components], channel[components] = index, np.arange(len(components))
            group = self._group(first, axes, atoms, order, norms, reads)
            taken = any(group.name == other.name for other in groups)
            groups.append(replace(group, name=f"{group.name}:{self.atoms.axes[first]}") if taken else group)
        return tuple(groups), owner, channel

    def _alike(self) -> list[tuple[tuple[int, ...], Positions, Positions]]:
        """List free components that own equally many positions of the same axes.

        Each entry has the axis of every column, the components, and their atoms (components, columns).
        """
        atoms = np.arange(len(self.atoms), dtype=np.int64)
        locked = np.fromiter(self.locks, dtype=np.int64, count=len(self.locks))
        atoms = atoms[~np.isin(self.component[atoms], locked)]
        atoms = atoms[np.argsort(self.component[atoms], kind="stable")]
        axes, components = self.atoms.locate(atoms), self.component[atoms]
        borders = np.flatnonzero(np.r_[True, np.diff(components) > 0, True]) if len(atoms) else np.zeros(0, np.int64)
        members: dict[bytes, list[int]] = defaultdict(list)
        for start, end in pairwise(borders.tolist()):
            members[axes[start:end].tobytes()].append(start)
        alike = []
        for signature, firsts in members.items():
            columns = np.frombuffer(signature, dtype=np.int64)
            index = np.array(firsts)[:, None] + np.arange(len(columns))
            alike.append((tuple(columns.tolist()), components[np.array(firsts)], atoms[index]))
        return alike

    def _group(
        self,
        first: int,
        axes: tuple[int, ...],
        atoms: Positions,
        order: Mapping[int, int],
        norms: set[int],
        reads: set[int],
    ) -> ChannelGroup:
        owned = {
            axis: Axis(
                parameter=self.atoms.names[axis],
                axis=self.atoms.axes[axis],
                size=int(self.atoms.sizes[axis]),
                positions=atoms[:, np.array(axes) == axis] - self.atoms.starts[axis],
            )
            for axis in dict.fromkeys(axes)
        }
        name = _name_of(owned[first].parameter)
        if owned[first].positions.size < self.atoms.sizes[first]:
            name += f"[{_ranges(np.sort(owned[first].positions.reshape(-1)))}]"
        return ChannelGroup(
            name=name,
            channels=len(atoms),
            axes=tuple(owned.values()),
            filters=tuple(owned[axis] for axis in sorted(owned, key=lambda a: order.get(a, -1)) if axis in order),
            norms=tuple(owned[axis] for axis in owned if axis in norms),
            reads=tuple(owned[axis] for axis in owned if axis in reads),
            residual=sum(axis in order for axis in owned) > 1 and bool(self._added[self.component[atoms[0, 0]]]),
            least=2 if self._squeezed[self.component[atoms[0, 0]]] else 1,
        )

    def _why_lost(self, layer: str) -> tuple[str, str]:
        """Say why the weight of a layer cannot be followed: because of what was done to its parameters."""
        for name, start in zip(self.atoms.names, self.atoms.starts, strict=True):
            record = self.locks.get(int(self.component[start])) if _name_of(name) == layer else None
            if record is not None and record.site is not None:
                return record.reason, str(record.site)
        return "its weight is made in a way that is not followed", ""

    def _produced(self) -> Iterator[dict[int, Positions]]:
        """Give for every layer, in the order of the network, the weight axes that make its channels, with their ids."""
        for record in self.ledger.contractions:
            if record.produced is not None:
                yield self._axes_of(record.produced)

    def _axes_of(self, ids: Tensor) -> dict[int, Positions]:
        """Sort ids by the axis that they belong to; ids of no axis (zeros that were padded) are left out."""
        numbers = ids.numpy()
        axes = self.atoms.locate(numbers)
        return {int(axis): numbers[axes == axis] for axis in dict.fromkeys(axes.tolist()) if axis >= 0}

    def _share(self, ids: Tensor, owner: Positions, channels: Positions) -> Share:
        known = ids.numpy()
        owners = owner[self.component[known[known >= 0]]]
        return Share(len(ids), _per_channel(owners, channels))

    def _channels(self, owner: Positions) -> Positions:
        return np.bincount(owner[owner >= 0], minlength=int(owner.max(initial=-1)) + 1)

    def _parameters(self, model: nn.Module, owner: Positions, channels: Positions) -> dict[str, tuple[Share, ...]]:
        of_axis = {
            (name, axis): self.component[start : start + size]
            for name, axis, start, size in zip(
                self.atoms.names, self.atoms.axes, self.atoms.starts, self.atoms.sizes, strict=True
            )
        }
        return {
            name: tuple(
                Share(size, _per_channel(owner[of_axis[name, axis]], channels) if (name, axis) in of_axis else {})
                for axis, size in enumerate(parameter.shape)
            )
            for name, parameter in model.named_parameters()
        }

    def _pairs(self, ids: Tensor, owner: Positions, channel: Positions) -> Positions:
        components = self.component[ids.numpy()]
        return np.stack([owner[components], channel[components]], axis=1)

    def _locked(self) -> tuple[Locked, ...]:
        """Say for every layer which of its output channels must stay, and why."""
        found: dict[tuple[str, str, str], int] = {}
        totals: dict[str, int] = {}
        seen: set[int] = set()
        for axes in self._produced():
            for axis in axes.keys() - seen:
                seen.add(axis)
                layer = _name_of(self.atoms.names[axis])
                first, size = int(self.atoms.starts[axis]), int(self.atoms.sizes[axis])
                totals[layer] = size
                for component in self.component[first : first + size]:
                    record = self.locks.get(int(component))
                    if record is not None:
                        key = (layer, record.reason, str(record.site) if record.site else "")
                        found[key] = found.get(key, 0) + 1
        for made in self.ledger.contractions:
            if made.lost and made.module not in totals:
                totals[made.module] = made.lost
                found[(made.module, *self._why_lost(made.module))] = made.lost
        return tuple(Locked(layer, n, totals[layer], why, where) for (layer, why, where), n in found.items())


def _leaves_one(axes: tuple[int, ...], channels: int) -> bool:
    """Ask whether an axis has a single position left without one channel: too few to see where they arrive."""
    return min(map(axes.count, set(axes))) * (channels - 1) < 2


def _name_of(parameter: str) -> str:
    """Name the channels that a parameter makes: by its layer if that is the layer's weight, or by its own name.

    >>> _name_of("stem.conv.weight"), _name_of("stem.mixing")
    ('stem.conv', 'stem.mixing')
    """
    layer, own = layer_of(parameter), parameter.rpartition(".")[2]
    return layer if layer and (own in ("weight", "weight_v") or own.startswith("original")) else parameter


def _pads_of_one_module(ledger: Ledger) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Tie the zeros of every call of a ChannelPad: it has the same two numbers each time."""
    first: dict[str, Tensor] = {}
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for name, *sides in ledger.pads:
        ids = torch.cat(sides)
        pairs.append(torch.stack([first.setdefault(name, ids), ids], dim=1).numpy())
    return np.concatenate(pairs)


def _per_channel(owners: Positions, channels: Positions) -> dict[int, int]:
    counts = np.bincount(owners[owners >= 0], minlength=len(channels))
    return {int(g): int(counts[g] // channels[g]) for g in np.flatnonzero(counts)}


def _ranges(positions: Positions) -> str:
    """Write positions briefly.

    >>> _ranges(np.array([0, 1, 2, 7]))
    '0-2,7'
    """
    breaks = np.flatnonzero(np.diff(positions) > 1)
    starts, ends = np.r_[positions[0], positions[breaks + 1]], np.r_[positions[breaks], positions[-1]]
    return ",".join(f"{a}-{b}" if a != b else f"{a}" for a, b in zip(starts, ends, strict=True))


def _fingerprint(model: nn.Module, groups: tuple[ChannelGroup, ...]) -> str:
    shapes = [(name, tuple(tensor.shape)) for name, tensor in named_tensors(model)]
    owned = [(g.name, g.channels, [(a.parameter, a.axis, a.positions.shape) for a in g.axes]) for g in groups]
    return hashlib.sha256(repr((shapes, owned)).encode()).hexdigest()[:16]
