"""Count the positions of an axis that belong to each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """The number of positions of an axis that each channel of each group owns."""

    size: int
    per_channel: Mapping[int, int]
    blocks: int = 1
    """Blocks that share the axis (see `Axis`): it shrinks by one when every block loses a channel."""

    def left(self, removed: Sequence[int] | Integers) -> int:
        """Count the remaining positions when each group loses `removed[group]` channels."""
        return self.size - sum(int(removed[g]) * k for g, k in self.per_channel.items()) // self.blocks


@dataclass(frozen=True)
class Owners:
    """The group of every component of ids, and the number of channels of every group."""

    component: Integers
    """The component of every id."""
    owner: Integers
    """The group of every component; -1 for locked ones."""
    channels: Integers
    """The number of channels of every group."""
    _per_channel: dict[bytes, dict[int, int]] = field(default_factory=dict, compare=False, repr=False)
    """What is known of components, by their bytes: most axes of a network have those of another one."""

    @classmethod
    def of(cls, component: Integers, owner: Integers) -> Owners:
        """Count the channels of every group: each channel is one component."""
        channels = np.bincount(owner[owner >= 0], minlength=int(owner.max(initial=-1)) + 1)
        return cls(component, owner, channels)

    def share(self, ids: Tensor, size: int | None = None, blocks: int = 1) -> Share:
        """Return the share of an axis with these ids; -1 belongs to no channel."""
        known = ids.numpy()
        return self.share_of(self.component[known[known >= 0]], len(known) if size is None else size, blocks)

    def share_of(self, components: Integers, size: int, blocks: int = 1) -> Share:
        """Return the share of an axis with these components."""
        key = components.tobytes()
        if key not in self._per_channel:
            owners = self.owner[components]
            counts = np.bincount(owners[owners >= 0], minlength=len(self.channels))
            self._per_channel[key] = {int(g): int(counts[g] // self.channels[g]) for g in np.flatnonzero(counts)}
        return Share(size, self._per_channel[key], blocks)
