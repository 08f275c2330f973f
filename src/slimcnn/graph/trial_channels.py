"""Choose the channels that trial cuts remove."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations, count, islice
from math import comb

import numpy as np

from slimcnn.graph.channels import ChannelGraph
from slimcnn.graph.removal import Removed

SPREAD = 7
"""Neighboring groups lose different numbers of channels, so that code that needs equal numbers fails."""


def some_of_each(graph: ChannelGraph, seed: int) -> Removed:
    """Choose the channels to remove; at least half of every part remains.

    The first trial, often the only one, removes both ends of every group and some channels in between, so that all
    others move. The next trials remove either the first channels, which shifts boundaries at a fraction of the channels
    (`c // 4`), or the last ones; `_ends` chooses for each part. Then one trial removes random channels, and the cycle
    repeats.
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
    """Return how many trials in a row are needed to detect any change in the order of two parts.

    This applies to code that splits channels into parts with equal counts. The trials are the first one, those of
    `_ends`, and the random one.
    """
    return 2 + max(len(_ends(_places(graph, bundle))) for bundle in graph.bundles)


def _places(graph: ChannelGraph, bundle: Sequence[int]) -> int:
    return sum(len(graph.groups[i].parts) for i in bundle)


@cache
def _ends(places: int) -> list[list[bool]]:
    """Choose, for every trial and every part, whether the first channels are removed (True) or the last.

    Code that merges two parts (a shuffle) keeps the order of the remaining channels for every choice only if all of one
    part come before all of the other. Otherwise, removing the first of one part and the last of the other, and the
    reverse, gives two different orders. So for every two parts, one trial must do the former and another the latter.
    This holds if the sets of trials that remove the first channels have equal size and differ for all parts (Sperner
    1928).

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
