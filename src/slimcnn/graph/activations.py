"""Activation memory for any numbers of removed channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from slimcnn.graph.sharing import Integers, Share
from slimcnn.measuring.lifetimes import Lifetime


@dataclass(frozen=True)
class LiveTensor:
    """An activation of the traced run: its lifetime, its number of elements for one image, and its channels."""

    life: Lifetime
    elements: int
    shares: tuple[Share, ...]


class Timeline:
    """The bytes of live activations at every operation of the traced run, for any numbers of removed channels."""

    def __init__(self, activations: list[LiveTensor], groups: int) -> None:
        """Store the activations as arrays, so that a query takes microseconds."""
        depth = max((len(one.shares) for one in activations), default=0)
        self._first = np.array([one.life.first for one in activations], dtype=np.int64)
        self._end = np.array([one.life.last + 1 for one in activations], dtype=np.int64)
        self._length = int(self._end.max(initial=0)) + 1
        self._floating = np.array([one.life.floating for one in activations], dtype=np.bool_)
        self._element_bytes = np.array([one.life.element_bytes for one in activations], dtype=np.int64)
        self._sizes = np.ones((depth, len(activations)), dtype=np.int64)
        self._per_channel = np.zeros((depth, len(activations), groups), dtype=np.int64)
        for i, one in enumerate(activations):
            for d, share in enumerate(one.shares):
                self._sizes[d, i] = share.size
                for group, n in share.per_channel.items():
                    self._per_channel[d, i, group] = n
        whole = np.array([one.elements for one in activations], dtype=np.int64)
        self._rest = whole // np.maximum(self._sizes.prod(axis=0), 1)
        """The number of elements per channel of every activation; an empty one has none."""

    def at(self, removed: Any, float_bytes: int) -> Integers:
        """Return the live bytes at each operation when each group loses `removed[group]` channels."""
        left = self._sizes - self._per_channel @ np.asarray(removed, dtype=np.int64)
        size = self._rest * left.prod(axis=0) * np.where(self._floating, float_bytes, self._element_bytes)
        changes = np.zeros(self._length, dtype=np.int64)
        np.add.at(changes, self._first, size)
        np.subtract.at(changes, self._end, size)
        return np.cumsum(changes)
