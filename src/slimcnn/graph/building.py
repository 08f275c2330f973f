"""From what one run taught to the graph: components, locks, and groups of what is left."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from slimcnn.graph.atoms import Atoms, named_tensors
from slimcnn.graph.channels import Axis, ChannelGraph, ChannelGroup, Contraction, Locked, Positions, Share
from slimcnn.graph.tracer import Ledger, LockRecord, as_pairs


class GraphBuilder:
    """Components of the equalities, the locks on them, and the groups that are left."""

    def __init__(self, atoms: Atoms, ledger: Ledger, n_ids: int) -> None:
        self.atoms = atoms
        self.ledger = ledger
        pairs = as_pairs(ledger)
        links = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n_ids, n_ids))
        self.component: Positions = connected_components(links, directed=False)[1].astype(np.int64)
        self.owner: Positions = np.full(int(self.component.max(initial=-1)) + 1, -1, dtype=np.int64)
        """Group of every component in the graph built last; -1 for locked ones."""
        self.locks: dict[int, LockRecord] = {}
        self._added = np.zeros(len(self.owner), dtype=np.bool_)
        """Components in which channels of different layers are added."""
        for a, _, site in ledger.equal:
            if site.op in ("add", "add_", "sub", "sub_"):
                self._added[self.component[a.numpy()]] = True
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
        self.owner = owner
        contractions = [
            Contraction(
                c.module, c.macs // batch, self._share(c.out_ids, owner), self._share(c.in_ids, owner)
            )
            for c in self.ledger.contractions
        ]  # fmt: skip
        parameters = self._parameters(model, owner)
        pads = {
            name: (self._pairs(front, owner, channel), self._pairs(back, owner, channel))
            for name, front, back in self.ledger.pads
        }
        return ChannelGraph(
            groups=groups, locked=self._locked(), contractions=tuple(contractions), other_macs=0,
            parameters=parameters, pads=pads, fingerprint=_fingerprint(model, groups), example=example, batch=batch,
        )  # fmt: skip

    def _groups(self) -> tuple[tuple[ChannelGroup, ...], Positions, Positions]:
        """Gather free components with the same signature; give owner and channel of every component."""
        produced = [self._axis_of(c.out_ids) for c in self.ledger.contractions if c.produces and c.out_ids is not None]
        order = {axis: i for i, axis in reversed(list(enumerate(produced)))}
        norms = {self._axis_of(ids) for ids in self.ledger.norms}
        owner = np.full(int(self.component.max(initial=-1)) + 1, -1, dtype=np.int64)
        channel = owner.copy()
        found = []
        for axes, components, atoms in self._alike():
            makers = [axis for axis in dict.fromkeys(axes) if axis in order]
            if not makers:
                self.lock([LockRecord(torch.from_numpy(atoms.reshape(-1)), "no layer produces these", None)])
                continue
            first = min(makers, key=order.__getitem__)
            rows = np.argsort(atoms[:, np.array(axes) == first].min(axis=1))
            found.append((order[first], int(atoms[rows[0]].min()), first, axes, components[rows], atoms[rows]))
        found.sort(key=lambda item: item[:2])
        groups = []
        for index, (_, _, first, axes, components, atoms) in enumerate(found):
            owner[components], channel[components] = index, np.arange(len(components))
            groups.append(self._group(first, axes, atoms, order, norms))
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
        starts = np.flatnonzero(np.r_[True, np.diff(components) > 0]) if len(atoms) else np.zeros(0, dtype=np.int64)
        members: dict[bytes, list[int]] = defaultdict(list)
        ends = np.r_[starts[1:], len(atoms)]
        for start, end in zip(starts, ends, strict=True):
            members[axes[start:end].tobytes()].append(int(start))
        alike = []
        for signature, firsts in members.items():
            columns = np.frombuffer(signature, dtype=np.int64)
            index = np.array(firsts)[:, None] + np.arange(len(columns))
            alike.append((tuple(columns.tolist()), components[np.array(firsts)], atoms[index]))
        return alike

    def _group(
        self, first: int, axes: tuple[int, ...], atoms: Positions, order: Mapping[int, int], norms: set[int]
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
        name = owned[first].parameter.rpartition(".")[0] or owned[first].parameter
        if owned[first].positions.size < self.atoms.sizes[first]:
            name += f"[{_ranges(np.sort(owned[first].positions.reshape(-1)))}]"
        return ChannelGroup(
            name=name,
            channels=len(atoms),
            axes=tuple(owned.values()),
            filters=tuple(owned[axis] for axis in sorted(owned, key=lambda a: order.get(a, -1)) if axis in order),
            norms=tuple(owned[axis] for axis in owned if axis in norms),
            residual=sum(axis in order for axis in owned) > 1 and bool(self._added[self.component[atoms[0, 0]]]),
        )

    def _axis_of(self, ids: Tensor) -> int:
        return int(self.atoms.locate(ids[:1].numpy())[0])

    def _share(self, ids: Tensor | None, owner: Positions) -> Share:
        if ids is None:
            return Share(1, {})
        owners = owner[self.component[ids.numpy()]]
        return Share(len(ids), _per_channel(owners, self._channels(owner)))

    def _channels(self, owner: Positions) -> Positions:
        return np.bincount(owner[owner >= 0], minlength=int(owner.max(initial=-1)) + 1)

    def _parameters(self, model: nn.Module, owner: Positions) -> dict[str, tuple[Share, ...]]:
        channels = self._channels(owner)
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
        totals = {}
        seen = set()
        for c in self.ledger.contractions:
            if not c.produces or c.out_ids is None or self._axis_of(c.out_ids) in seen:
                continue
            seen.add(self._axis_of(c.out_ids))
            layer = self.atoms.names[self._axis_of(c.out_ids)].rpartition(".")[0] or c.module
            totals[layer] = len(c.out_ids)
            for component in self.component[c.out_ids.numpy()]:
                record = self.locks.get(int(component))
                if record is not None:
                    key = (layer, record.reason, str(record.site) if record.site else "")
                    found[key] = found.get(key, 0) + 1
        return tuple(Locked(layer, n, totals[layer], why, where) for (layer, why, where), n in found.items())


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
