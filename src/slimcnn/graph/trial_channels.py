"""Choose the channels of trial cuts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations, count, islice
from math import comb

import numpy as np

from slimcnn.graph.channels import ChannelGraph
from slimcnn.graph.removal import Removed

SPREAD = 7
"""Neighboring groups lose different numbers of channels, so that code which needs equal numbers breaks."""


def some_of_each(graph: ChannelGraph, seed: int) -> Removed:
    """Choose channels to remove, never so many that one is left.

    The first trial, often the only one, takes both ends of every group and some between, so that all others move.
    The next ones take the first, so that every boundary that is a share of the channels (`c // 4`) shifts, or the
    last: of parts that lose equally many, as `_ends` says. Then comes one that takes any, and so on in turns.
    """
    random = np.random.default_rng(seed)
    removed = {}
    for turn, bundle in enumerate(graph.bundles):
        size = len(graph.groups[bundle[0]].parts[0])
        half = size // 2
        number = max(half - (turn + seed) % min(SPREAD, half), 1)
        channels = np.arange(size)
        trials = _ends(_places(graph, bundle))
        now = (seed + turn) % (len(trials) + 1) if seed else 0
        places = count()
        for i in bundle:
            gone = []
            for part, place in zip(graph.groups[i].parts, places, strict=False):
                some = random.permutation(channels)
                if now:
                    order = channels if trials[now - 1][place] else channels[::-1]
                elif seed:
                    order = some
                else:
                    ends = [0, size - 1] if place % 2 == 0 else [size - 1, 0]
                    order = np.r_[ends, some[(some > 0) & (some < size - 1)]]
                gone.append(part[order[:number]])
            removed[i] = np.sort(np.concatenate(gone))
    return removed


def trials_of_parts(graph: ChannelGraph) -> int:
    """Number the trials in a row after which no two parts can have changed their order unseen.

    That holds where code parts channels that must lose equally many. Those of `_ends`, the one that takes any, and
    the very first.
    """
    return 2 + max(len(_ends(_places(graph, bundle))) for bundle in graph.bundles)


def _places(graph: ChannelGraph, bundle: Sequence[int]) -> int:
    return sum(len(graph.groups[i].parts) for i in bundle)


@cache
def _ends(places: int) -> list[list[bool]]:
    """Say for every trial of which places the first channels go; of the others the last.

    Code that merges two parts (a shuffle) gives the channels that stay the same order whichever they are only if all
    of one part come before all of the other: else, taking the first of one and the last of the other, and the reverse,
    gives two orders. So for every two places one trial must take them one way round and one the other. That
    holds if every place has its first taken in other, and equally many, trials (Sperner 1928).

    >>> for trial in _ends(4):
    ...     print(["first" if first else "last" for first in trial])
    ['first', 'first', 'first', 'last']
    ['first', 'last', 'last', 'first']
    ['last', 'first', 'last', 'first']
    ['last', 'last', 'first', 'last']
    """
    trials = next(n for n in count(2) if comb(n, n // 2) >= places)
    chosen = list(islice(combinations(range(trials), trials // 2), places))
    return [[trial in taken for taken in chosen] for trial in range(trials)]
