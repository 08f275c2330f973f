"""EqualCounts: channels that look alike and lie in the same part of everything that the code parts.

Code that parts channels by their number (`chunk`, a grouped convolution, a shuffle) goes on to part them in the same
places after a cut if every part loses equally many channels; which ones is free. Where several such parts cross,
as in a shuffle between two grouped convolutions, a cell is what lies in the same part of all of them.
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
        """Begin with one cell for each class of components that look alike."""
        cell = np.full(components, LOCKED, dtype=np.int64)
        for index, members in enumerate(classes):
            cell[members] = index
        return cls(cell, len(classes))

    def refine(self, table: Positions) -> None:
        """Part cells by the rows of a table (parts, n) of components in which their members lie."""
        members, marks = _marks(table)
        free = self.cell[members] != LOCKED
        members, marks = members[free], marks[free]
        pairs = np.stack([self.cell[members], marks], axis=1)
        kinds, renamed = np.unique(pairs, axis=0, return_inverse=True)
        self.cell[members] = self.number + renamed.reshape(-1)
        self.number += len(kinds)

    def separate(self, piece: Positions) -> None:
        """Part cells into what lies in a piece and what does not."""
        inside = np.zeros(len(self.cell), dtype=np.bool_)
        inside[piece] = True
        inside &= self.cell != LOCKED
        cut_through = np.intersect1d(self.cell[inside], self.cell[~inside & (self.cell != LOCKED)])
        for cell in cut_through.tolist():
            self.cell[inside & (self.cell == cell)] = self.number
            self.number += 1

    def even(self, table: Positions) -> bool:
        """Ask whether every row loses equally many channels when all cells do: cells of one size, and as many a row."""
        cells = self.cell[table]
        known = np.unique(cells[cells != LOCKED])
        sizes = np.bincount(self.cell[self.cell != LOCKED], minlength=self.number)[known]
        if len(np.unique(sizes)) > 1:
            return False
        free = (cells != LOCKED).sum(axis=1)
        return bool((free == free[0]).all())

    def lonely(self, tables: Sequence[Positions]) -> Positions:
        """List components that are alone in their cell, and those that must lose as many."""
        sizes = np.bincount(self.cell[self.cell != LOCKED], minlength=self.number + 1)
        found = [np.flatnonzero((self.cell != LOCKED) & (sizes[self.cell] < 2))]
        for table in tables:
            cells = self.cell[table]
            here = np.unique(cells[cells != LOCKED])
            if len(here) > 1 and sizes[here[0]] < 2:
                found.append(np.flatnonzero(np.isin(self.cell, here)))
        return np.unique(np.concatenate(found))

    def bundles(self, tables: Sequence[Positions]) -> Positions:
        """Number for every component the cells that must lose as many as its own; -1 for locked ones."""
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


def _marks(table: Positions) -> tuple[Positions, Positions]:
    """Say for every component in a table in which rows it lies, and how often, as a number."""
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
    """Give every different row of a table, in the order in which they come, with the places where it stands.

    >>> [(row.tolist(), places.tolist()) for row, places in same_rows(np.array([[5, 6], [3, 4], [5, 6]]))]
    [([5, 6], [0, 2]), ([3, 4], [1])]
    """
    keys = np.ascontiguousarray(table).view([("", table.dtype)] * table.shape[1]).reshape(-1)
    # Neighbors are mostly alike: look for the borders between runs first, and sort only one row of each.
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    _, first, kinds = np.unique(keys[starts], return_index=True, return_inverse=True)
    kind = np.repeat(kinds.reshape(-1), np.diff(np.r_[starts, len(keys)]))
    for number in np.argsort(first).tolist():
        places = np.flatnonzero(kind == number)
        yield table[places[0]], places


def same_value(values: Positions) -> tuple[Positions, ...]:
    """Part positions by their value, in the order in which the values come.

    >>> [part.tolist() for part in same_value(np.array([7, 7, 3, 7]))]
    [[0, 1, 3], [2]]
    """
    order = np.argsort(values, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(values[order])) + 1)
    return tuple(sorted(parts, key=lambda part: int(part[0])))
