"""How many positions of an axis belong to which group's channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """How many positions of an axis each group owns, per channel."""

    size: int
    per_channel: Mapping[int, int]
    blocks: int = 1
    """Blocks that share the positions of the axis (see `Axis`): a position goes when every block loses one."""

    def left(self, removed: Sequence[int] | Integers) -> int:
        """Count the positions that stay when each group loses `removed[group]` channels."""
        return self.size - sum(int(removed[g]) * k for g, k in self.per_channel.items()) // self.blocks


@dataclass(frozen=True)
class Owners:
    """The group of every component of ids, -1 for what is locked, and how many channels every group has."""

    component: Integers
    """Of every id."""
    owner: Integers
    """Of every component."""
    channels: Integers
    """Of every group."""

    @classmethod
    def of(cls, component: Integers, owner: Integers) -> Owners:
        """Count the channels: each is one component."""
        channels = np.bincount(owner[owner >= 0], minlength=int(owner.max(initial=-1)) + 1)
        return cls(component, owner, channels)

    def share(self, ids: Tensor, size: int | None = None, blocks: int = 1) -> Share:
        """Say whose channels lie along an axis with these ids (-1: nobody's)."""
        known = ids.numpy()
        owners = self.owner[self.component[known[known >= 0]]]
        counts = np.bincount(owners[owners >= 0], minlength=len(self.channels))
        per_channel = {int(g): int(counts[g] // self.channels[g]) for g in np.flatnonzero(counts)}
        return Share(len(known) if size is None else size, per_channel, blocks)
