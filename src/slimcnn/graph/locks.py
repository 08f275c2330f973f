"""Locked components, with the reason for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slimcnn.graph.channels import Mask, Positions
from slimcnn.graph.trace_record import LockRecord

FREE = -1


@dataclass(frozen=True)
class Locks:
    """The reason of every locked component: the first with a site, or else the first.

    >>> import torch
    >>> record = LockRecord(torch.tensor([7, 8]), "reduced over its channels", None)
    >>> locks = Locks.none(4).add([(record, np.array([1, 2]))])
    >>> len(locks), locks.mask.tolist()
    (2, [False, True, True, False])
    >>> [(record.reason, n) for record, n in locks.counted(np.array([0, 1, 2, 3]))]
    [('reduced over its channels', 2)]
    """

    why: Positions
    """The index into `records` of every component; -1 for free ones."""
    placed: Mask
    """Whether that record has a site."""
    records: tuple[LockRecord, ...] = ()

    @classmethod
    def none(cls, components: int) -> Locks:
        """Create locks with all components free."""
        return cls(np.full(components, FREE, dtype=np.int64), np.zeros(components, dtype=np.bool_))

    def add(self, more: Sequence[tuple[LockRecord, Positions]]) -> Locks:
        """Lock the components of each record; a reason with a site replaces one without."""
        why, placed = self.why.copy(), self.placed.copy()
        for number, (record, components) in enumerate(more, start=len(self.records)):
            new = why[components] == FREE
            if record.site is not None:
                new |= ~placed[components]
            why[components[new]] = number
            placed[components[new]] = record.site is not None
        return Locks(why, placed, (*self.records, *(record for record, _ in more)))

    def __len__(self) -> int:
        return int(self.mask.sum())

    @property
    def mask(self) -> Mask:
        """Whether each component is locked."""
        locked: Mask = self.why != FREE
        return locked

    def of(self, component: int) -> LockRecord | None:
        """Return the record that locks a component; None if it is free."""
        number = int(self.why[component])
        return None if number == FREE else self.records[number]

    def counted(self, components: Positions) -> list[tuple[LockRecord, int]]:
        """Count the locked components by reason, in order of first occurrence."""
        numbers = self.why[components]
        kinds, first, counts = np.unique(numbers[numbers != FREE], return_index=True, return_counts=True)
        return [(self.records[kinds[i]], int(counts[i])) for i in np.argsort(first).tolist()]
