"""Map every id to its channel; all values are frozen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    """Connected components of the recorded equalities; all ids of a component are the same channel."""

    component: Positions
    """The component of every id."""
    number: int
    """Number of components."""
    added: Mask
    """Components in which channels of different layers are added."""
    squeezed: Mask
    """Components on an axis that a `squeeze` would drop if one channel were left."""
    inexact: Mapping[int, str]
    """Components that are normalized together with others, and the site of the norm."""

    @classmethod
    def of(cls, record: TraceRecord, pairs: Positions, ids: int) -> Components:
        """Compute the components from rows (a, b) of equal ids."""
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
    """All constraints from the run and the trial cuts: equal ids, locks, equal counts, size attributes."""

    record: TraceRecord
    ids: int
    pairs: tuple[Positions, ...]
    """Rows (a, b) of equal ids."""
    parts: tuple[EqualParts, ...]
    """Parts that must keep the same number of channels; which ones is free."""
    components: Components
    locks: Locks
    sizes: tuple[SizeGuess, ...] = ()
    """Module attributes that are assumed to be channel counts."""
    refuted: frozenset[str] = frozenset()
    """Modules for which that assumption was wrong."""
    shared: frozenset[str] = frozenset()
    """Modules whose attributes are assumed to count several axes at once."""
    unshared: Constraints | None = None
    """The constraints before that assumption."""

    @classmethod
    def of(cls, record: TraceRecord, ids: int) -> Constraints:
        """Create the constraints of a run."""
        pairs = (record.pairs(), _pads_of_one_module(record))
        components = Components.of(record, np.concatenate(pairs), ids)
        bare = cls(record, ids, pairs, tuple(record.parts), components, Locks.none(components.number))
        return bare.lock(record.locks)

    def lock(self, records: Iterable[LockRecord]) -> Constraints:
        """Lock the components of ids; the first reason with a site is kept."""
        found = [(record, self.components.component[record.ids.numpy()]) for record in records]
        return replace(self, locks=self.locks.add(found))

    def tie(self, parts: Iterable[EqualParts]) -> Constraints:
        """Strengthen equal-count constraints: these parts must keep equal offsets."""
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

    def release(self, parts: Sequence[EqualParts]) -> Constraints:
        """Drop equal-count constraints: of these parts, whole ones may be removed."""
        if not parts:
            return self
        return replace(self, parts=tuple(part for part in self.parts if not any(part is one for one in parts)))

    def guess(self, sizes: Iterable[SizeGuess]) -> Constraints:
        """Assume that more module attributes are channel counts."""
        return replace(self, sizes=(*self.sizes, *sizes))

    def refute(self, modules: Iterable[str]) -> Constraints:
        """Drop the assumption that attributes of these modules are channel counts."""
        refuted = self.refuted.union(modules)
        return replace(self, refuted=refuted, sizes=tuple(size for size in self.sizes if size.module not in refuted))

    def share(self, modules: Iterable[str], sizes: Iterable[SizeGuess], parts: Iterable[EqualParts]) -> Constraints:
        """Assume instead that attributes of these modules each count several axes, which keep equal numbers."""
        places = frozenset(modules)
        others = tuple(size for size in self.sizes if size.module not in places)
        return replace(
            self,
            sizes=(*others, *sizes),
            parts=(*self.parts, *parts),
            shared=self.shared | places,
            unshared=self.unshared or self,
        )

    def unshare(self) -> Constraints:
        """Drop the assumptions of `share` and their consequences; modules that it concerned are refuted."""
        if self.unshared is None:
            return self
        return self.unshared.lock(self.locks.records[len(self.unshared.locks.records) :]).refute(self.shared)


@dataclass(frozen=True)
class Partition:
    """The group and channel of every id."""

    component: Positions
    """The component of every id."""
    owner: Positions
    """The group of every component; -1 for locked ones."""
    channel: Positions
    """The channel of every component in its group."""

    def groups_of(self, ids: Tensor) -> set[int]:
        """Return the groups that own any of these ids."""
        found = np.unique(self.owner[self.component[ids.numpy()]])
        return set(found[found >= 0].tolist())

    def members(self, group: int) -> Tensor:
        """Return the ids of a group."""
        return torch.from_numpy(np.flatnonzero(self._group_of_id == group))

    @cached_property
    def _group_of_id(self) -> Positions:
        found: Positions = self.owner[self.component]
        return found

    def known(self, ids: Tensor) -> Tensor:
        """Drop ids that were created in a later run."""
        return ids[ids < len(self.component)]


def _pads_of_one_module(record: TraceRecord) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Pair the padding ids of all calls of one ChannelPad: every call uses the same two sizes."""
    first: dict[str, Tensor] = {}
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for name, *sides in record.pads:
        ids = torch.cat(sides)
        pairs.append(torch.stack([first.setdefault(name, ids), ids], dim=1).numpy())
    return np.concatenate(pairs)
