"""Equal counts: find sets of channels that must lose the same number of channels.

Code that splits channels by their number (`chunk`, a grouped convolution, a shuffle) still splits them correctly after
pruning if every part loses the same number of channels; which ones is free. Where several splits cross, as in a
shuffle between two grouped convolutions, a cell is the set of channels that lie in the same part of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from slimcnn.graph.channels import Positions

LOCKED = -1


@dataclass
class EqualCounts:
    """The cell of every component; -1 for locked ones.

    >>> cells = EqualCounts.of([np.array([0, 1, 2, 3])], 4)
    >>> halves = np.array([[0, 1], [2, 3]])
    >>> cells.refine(halves)
    >>> cells.cell.tolist(), cells.even(halves), cells.bundles([halves]).tolist()
    ([1, 1, 2, 2], True, [0, 0, 0, 0])
    """

    cell: Positions
    number: int

    @classmethod
    def of(cls, classes: Sequence[Positions], components: int) -> EqualCounts:
        """Create one cell for each class of components."""
        cell = np.full(components, LOCKED, dtype=np.int64)
        for index, members in enumerate(classes):
            cell[members] = index
        return cls(cell, len(classes))

    def refine(self, table: Positions) -> None:
        """Split cells by the rows of a table (parts, n) of components."""
        members, marks = _row_codes(table)
        free = self.cell[members] != LOCKED
        members, marks = members[free], marks[free]
        pairs = np.stack([self.cell[members], marks], axis=1)
        kinds, renamed = np.unique(pairs, axis=0, return_inverse=True)
        self.cell[members] = self.number + renamed.reshape(-1)
        self.number += len(kinds)

    def separate(self, piece: Positions) -> None:
        """Split cells into members inside and outside of a piece."""
        inside = np.zeros(len(self.cell), dtype=np.bool_)
        inside[piece] = True
        inside &= self.cell != LOCKED
        cut_through = np.intersect1d(self.cell[inside], self.cell[~inside & (self.cell != LOCKED)])
        for cell in cut_through.tolist():
            self.cell[inside & (self.cell == cell)] = self.number
            self.number += 1

    def even(self, table: Positions) -> bool:
        """Return whether all cells have the same size and all rows the same number of free components.

        Then every row loses the same number of channels if every cell does.
        """
        cells = self.cell[table]
        known = np.unique(cells[cells != LOCKED])
        sizes = np.bincount(self.cell[self.cell != LOCKED], minlength=self.number)[known]
        if len(np.unique(sizes)) > 1:
            return False
        free = (cells != LOCKED).sum(axis=1)
        return bool((free == free[0]).all())

    def lonely(self, tables: Sequence[Positions]) -> Positions:
        """Return components that are alone in their cell, and those that must lose the same number."""
        sizes = np.bincount(self.cell[self.cell != LOCKED], minlength=self.number + 1)
        found = [np.flatnonzero((self.cell != LOCKED) & (sizes[self.cell] < 2))]
        for table in tables:
            cells = self.cell[table]
            here = np.unique(cells[cells != LOCKED])
            if len(here) > 1 and sizes[here[0]] < 2:
                found.append(np.flatnonzero(np.isin(self.cell, here)))
        return np.unique(np.concatenate(found))

    def bundles(self, tables: Sequence[Positions]) -> Positions:
        """Return the bundle of every component; -1 for locked ones.

        A bundle is a set of cells that must lose the same number of channels.
        """
        links = [np.zeros((2, 0), dtype=np.int64)]
        for table in tables:
            cells = self.cell[table]
            here = np.unique(cells[cells != LOCKED])
            links.append(np.stack([here[:-1], here[1:]]))
        a, b = np.concatenate(links, axis=1)
        shape = (self.number, self.number)
        joined = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=shape), directed=False)[1]
        renamed = np.full(len(self.cell), LOCKED, dtype=np.int64)
        free = self.cell != LOCKED
        renamed[free] = np.unique(joined[self.cell[free]], return_inverse=True)[1]
        return renamed


def _row_codes(table: Positions) -> tuple[Positions, Positions]:
    """Return the components of a table, and a number for each that encodes its rows and its count in each row."""
    parts = len(table)
    rows = np.broadcast_to(np.arange(parts)[:, None], table.shape)
    pairs, often = np.unique(table.reshape(-1) * parts + rows.reshape(-1), return_counts=True)
    members, signs = pairs // parts, (pairs % parts) * (table.shape[1] + 1) + often
    borders = np.flatnonzero(np.r_[True, np.diff(members) > 0])
    if len(borders) == len(members):
        return members, signs
    lengths = np.diff(np.r_[borders, len(members)])
    marks, known = np.zeros(len(borders), dtype=np.int64), 0
    for length in np.unique(lengths).tolist():
        here = lengths == length
        rows = signs[borders[here][:, None] + np.arange(length)]
        kinds, numbers = np.unique(rows, axis=0, return_inverse=True)
        marks[here] = known + numbers.reshape(-1)
        known += len(kinds)
    return members[borders], marks


def same_rows(table: Positions) -> Iterator[tuple[Positions, Positions]]:
    """Yield every distinct row of a table, in order of first occurrence, with its positions.

    >>> [(row.tolist(), places.tolist()) for row, places in same_rows(np.array([[5, 6], [3, 4], [5, 6]]))]
    [([5, 6], [0, 2]), ([3, 4], [1])]
    """
    keys = np.ascontiguousarray(table).view([("", table.dtype)] * table.shape[1]).reshape(-1)
    # Adjacent rows are mostly equal: find runs first, and sort only one row of each.
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    _, first, kinds = np.unique(keys[starts], return_index=True, return_inverse=True)
    kind = np.repeat(kinds.reshape(-1), np.diff(np.r_[starts, len(keys)]))
    for number in np.argsort(first).tolist():
        places = np.flatnonzero(kind == number)
        yield table[places[0]], places


def same_value(values: Positions) -> tuple[Positions, ...]:
    """Split positions by their value, in order of first occurrence.

    >>> [part.tolist() for part in same_value(np.array([7, 7, 3, 7]))]
    [[0, 1, 3], [2]]
    """
    order = np.argsort(values, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(values[order])) + 1)
    return tuple(sorted(parts, key=lambda part: int(part[0])))
