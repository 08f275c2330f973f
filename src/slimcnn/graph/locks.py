"""Which components must stay, and why."""

from __future__ import annotations

import numpy as np

from slimcnn.graph.channels import Mask, Positions
from slimcnn.graph.ledger import LockRecord

FREE = -1


class Locks:
    """The reason for every component that must stay: the first one, or the first that names a place.

    >>> import torch
    >>> locks = Locks(4)
    >>> locks.add(LockRecord(torch.empty(0), "compared with each other", None), np.array([1, 2, 2]))
    >>> len(locks), locks.mask.tolist()
    (2, [False, True, True, False])
    >>> [(record.reason, n) for record, n in locks.counted(np.array([0, 1, 2, 3]))]
    [('compared with each other', 2)]
    """

    def __init__(self, components: int) -> None:
        self._why: Positions = np.full(components, FREE, dtype=np.int64)
        """Number of the record of every component."""
        self._records: list[LockRecord] = []
        self._placed = np.zeros(components, dtype=np.bool_)
        """Whether that record names a place."""

    def add(self, record: LockRecord, components: Positions) -> None:
        """Lock components, unless they are locked for a reason that says as much."""
        new = self._why[components] == FREE
        if record.site is not None:
            new |= ~self._placed[components]
        self._why[components[new]] = len(self._records)
        self._placed[components[new]] = record.site is not None
        self._records.append(record)

    def __len__(self) -> int:
        return int(self.mask.sum())

    @property
    def mask(self) -> Mask:
        """Whether each component is locked."""
        locked: Mask = self._why != FREE
        return locked

    def of(self, component: int) -> LockRecord | None:
        """Why a component is locked; None if it is free."""
        number = int(self._why[component])
        return None if number == FREE else self._records[number]

    def counted(self, components: Positions) -> list[tuple[LockRecord, int]]:
        """Count the locked ones among components by their reason, in the order in which the reasons come."""
        numbers = self._why[components]
        kinds, first, counts = np.unique(numbers[numbers != FREE], return_index=True, return_counts=True)
        return [(self._records[kinds[i]], int(counts[i])) for i in np.argsort(first).tolist()]
