"""Which channel every id belongs to, as frozen values made by pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from slimcnn.graph.channels import Mask, Positions
from slimcnn.graph.ids import ids_in
from slimcnn.graph.locks import Locks
from slimcnn.graph.operations import operation
from slimcnn.graph.size_attributes import SizeGuess
from slimcnn.graph.trace_record import EqualParts, LockRecord, TraceRecord


@dataclass(frozen=True)
class Components:
    """Ids that are the same channel: connected components of the recorded equalities."""

    component: Positions
    """Of every id."""
    number: int
    added: Mask
    """Components in which channels of different layers are added."""
    squeezed: Mask
    """Components on an axis that a `squeeze` would drop if one channel were left."""
    inexact: Mapping[int, str]
    """Components that are normalized together with others, and where."""

    @classmethod
    def of(cls, record: TraceRecord, pairs: Positions, ids: int) -> Components:
        """Connect what is equal: rows (a, b) of ids."""
        links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(ids, ids))
        component: Positions = connected_components(links, directed=False)[1].astype(np.int64)
        number = int(component.max(initial=-1)) + 1
        added, squeezed = np.zeros(number, dtype=np.bool_), np.zeros(number, dtype=np.bool_)
        for a, _, site in record.equal:
            if operation(site.op).kind in ("sum", "difference"):
                added[component[a.numpy()]] = True
        for label in record.squeezed:
            squeezed[component[ids_in(label).numpy()]] = True
        inexact: dict[int, str] = {}
        for lock in record.inexact:
            for one in np.unique(component[lock.ids.numpy()]).tolist():
                inexact.setdefault(one, str(lock.site))
        return cls(component, number, added, squeezed, inexact)


@dataclass(frozen=True)
class Constraints:
    """What the run and the trial cuts taught: equal ids, locks, parts of equal size, size attributes."""

    record: TraceRecord
    ids: int
    pairs: tuple[Positions, ...]
    """Rows (a, b) of equal ids."""
    parts: tuple[EqualParts, ...]
    """Parts that keep equally many channels, whichever they are."""
    components: Components
    locks: Locks
    sizes: tuple[SizeGuess, ...] = ()
    """Attributes of modules that are taken to be a number of channels."""
    refuted: frozenset[str] = frozenset()
    """Modules for which that did not help."""

    @classmethod
    def of(cls, record: TraceRecord, ids: int) -> Constraints:
        """Begin with what the run taught."""
        pairs = (record.pairs(), _pads_of_one_module(record))
        components = Components.of(record, np.concatenate(pairs), ids)
        bare = cls(record, ids, pairs, tuple(record.parts), components, Locks.none(components.number))
        return bare.lock(record.locks)

    def lock(self, records: Iterable[LockRecord]) -> Constraints:
        """Lock the components of ids; the first reason that names a place stays."""
        found = [(record, self.components.component[record.ids.numpy()]) for record in records]
        return replace(self, locks=self.locks.add(found))

    def tie(self, parts: Iterable[EqualParts]) -> Constraints:
        """Let parts that kept equally many channels keep equal offsets from now on."""
        tied = list(parts)
        pairs = list(self.pairs)
        for part in tied:
            rows = part.rows.numpy()
            first = np.broadcast_to(rows[:1], rows[1:].shape)
            pairs.append(np.stack([first.reshape(-1), rows[1:].reshape(-1)], axis=1))
        components = Components.of(self.record, np.concatenate(pairs), self.ids)
        left = tuple(part for part in self.parts if not any(part is one for one in tied))
        connected = replace(
            self, pairs=tuple(pairs), parts=left, components=components, locks=Locks.none(components.number)
        )
        return connected.lock(self.locks.records)

    def guess(self, sizes: Iterable[SizeGuess]) -> Constraints:
        """Take more attributes of modules for numbers of channels."""
        return replace(self, sizes=(*self.sizes, *sizes))

    def refute(self, modules: Iterable[str]) -> Constraints:
        """Take the attributes of these modules for something else after all."""
        refuted = self.refuted.union(modules)
        return replace(self, refuted=refuted, sizes=tuple(size for size in self.sizes if size.module not in refuted))


@dataclass(frozen=True)
class Partition:
    """The group and channel of every id."""

    component: Positions
    """Of every id."""
    owner: Positions
    """The group of every component; -1 for locked ones."""
    channel: Positions
    """Its channel in that group."""

    def groups_of(self, ids: Tensor) -> set[int]:
        """List the groups that own some of these ids."""
        found = np.unique(self.owner[self.component[ids.numpy()]])
        return set(found[found >= 0].tolist())

    def members(self, group: int) -> Tensor:
        """List the ids of a group."""
        return torch.from_numpy(np.flatnonzero(self._group_of_id == group))

    @cached_property
    def _group_of_id(self) -> Positions:
        found: Positions = self.owner[self.component]
        return found

    def known(self, ids: Tensor) -> Tensor:
        """Drop ids that were made in a later run."""
        return ids[ids < len(self.component)]


def _pads_of_one_module(record: TraceRecord) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Tie the zeros of every call of a ChannelPad: it has the same two numbers each time."""
    first: dict[str, Tensor] = {}
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for name, *sides in record.pads:
        ids = torch.cat(sides)
        pairs.append(torch.stack([first.setdefault(name, ids), ids], dim=1).numpy())
    return np.concatenate(pairs)
