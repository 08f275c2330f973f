"""The trial cut: take channels out of a copy, run it on ids, and see whether every channel still arrives.

Sizes that are written into the code (`x.view(n, 64, 49)`, `x[:, :32]`, a split into fixed widths) do not follow a
cut.  The dispatcher cannot tell them from sizes that are computed, so we look what happens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, count, islice, pairwise, zip_longest
from math import comb
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimcnn.graph.atoms import Atoms
from slimcnn.graph.building import GraphBuilder
from slimcnn.graph.channels import ChannelGraph, Positions
from slimcnn.graph.copying import sketch
from slimcnn.graph.execution import Broken, watch_this
from slimcnn.graph.ids import Label, ids_in
from slimcnn.graph.ledger import FactorRecord, Ledger, LockRecord, Meeting, NeedsValues, Site
from slimcnn.graph.shrinking import shrink

Removed = Mapping[int, Positions]
"""Group (by index) → the channels that go."""

PATIENCE = 10
"""Trials that lock only what failed; after that, whatever runs through the same line of code."""


HARD_CODED = "a size in the code does not follow a cut"

COUNTED = "scaled or shifted by a number that depends on how many channels there are"

DECIDED = "the code decides by how many channels there are"

SIZED = (
    "view",
    "_unsafe_view",
    "split",
    "split_with_sizes",
    "slice",
    "expand",
    "repeat",
    "index",
    "index_select",
    "unfold",
)
"""Operations whose sizes may be written into the code."""

REPEATED = 3
"""Modules in which a line of code was to blame before it is taken to be wrong in all of them."""

SPREAD = 7
"""Neighbouring groups lose different numbers of channels, so that code which needs equal numbers breaks."""


@dataclass(frozen=True)
class RunMode:
    """One way to run the network."""

    example: Any
    training: bool
    hollow: bool
    inexact: bool = False


def trial_cut(
    model: nn.Module, runs: list[RunMode], graph: ChannelGraph, atoms: Atoms, builder: GraphBuilder, seed: int
) -> list[LockRecord]:
    """Cut about half of every group from a copy and list what has to be locked; empty if every channel arrived."""
    if not graph.groups:
        return []
    removed = _some_of_each(graph, seed)
    kept = kept_positions(graph, removed)
    cut = sketch(model)
    shrink(cut, kept, kept_counts(graph, removed))
    labels = atoms.labels(cut, kept)
    ledgers = []
    for run in runs:
        try:
            ledgers.append(_watch_cut(cut, run, labels, len(builder.component)))
        except Broken as broken:
            return _culprits(broken, graph, builder, patience=seed < PATIENCE)
    return _whole_groups(_displaced(ledgers, Remaining(builder, removed)), graph, builder)


def _watch_cut(cut: nn.Module, run: RunMode, labels: Mapping[str, Label], next_id: int) -> Ledger:
    cut.train(run.training)
    try:
        return watch_this(cut, run.example, labels, next_id, run.hollow, run.inexact).ledger
    except NeedsValues:  # the whole network did not
        return watch_this(cut, run.example, labels, next_id, hollow=False, inexact=run.inexact).ledger


def _some_of_each(graph: ChannelGraph, seed: int) -> Removed:
    """Choose channels to remove, never so many that one is left.

    The first trial, often the only one, takes both ends of every group and some between, so that all others move.
    The next ones take the first, so that every boundary that is a share of the channels (`c // 4`) shifts, or the
    last: of parts that lose equally many, as `_ends` says.  Then comes one that takes any, and so on in turns.
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

    That holds where code parts channels that must lose equally many.  Those of `_ends`, the one that takes any, and
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
    gives two orders.  So for every two places one trial must take them one way round and one the other.  That
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


class Remaining:
    """What must be left of ids after a cut."""

    def __init__(self, builder: GraphBuilder, removed: Removed) -> None:
        self.builder = builder
        owner, channel, own = builder.owner, builder.channel, len(builder.atoms)
        widest = int(channel.max(initial=0)) + 1
        gone = np.zeros((int(owner.max(initial=-1)) + 1, widest), dtype=np.bool_)
        for group, channels in removed.items():
            gone[group, channels] = True
        lost = np.zeros(len(owner), dtype=np.bool_)
        lost[owner >= 0] = gone[owner[owner >= 0], channel[owner >= 0]]
        self._stays = np.ones(own + 2, dtype=np.bool_)
        """Of every id of the network's own tensors; False for all other ids, True (the last entry) for no id."""
        self._stays[:own] = ~lost[builder.component[:own]]
        self._stays[own] = False

    def of(self, meetings: list[Meeting]) -> list[tuple[bytes, bytes]]:
        """Give, for both sides of every meeting, the ids of the network's own tensors that are left.

        -1 stands for positions without a channel.
        """
        sides = [side for meeting in meetings for side in (meeting.a, meeting.b)]
        arrays = [np.empty(0, dtype=np.int64) if side is None else side.numpy() for side in sides]
        numbers = np.concatenate([*arrays, np.empty(0, dtype=np.int64)])
        stays = self._stays[np.minimum(numbers, len(self._stays) - 2)]
        ends = np.cumsum([0, *map(len, arrays)])
        left = np.concatenate([[0], np.cumsum(stays)])[ends].tolist()
        kept = numbers[stays]
        found = [kept[start:end].tobytes() for start, end in pairwise(left)]
        return list(zip(found[::2], found[1::2], strict=True))


def _displaced(ledgers: list[Ledger], remaining: Remaining) -> list[LockRecord]:
    """List channels that met others than in the whole network, or were treated differently, or were locked again."""
    builder, misplaced = remaining.builder, []
    before = _by_place(builder.ledger.met, remaining)
    after = _by_place([met for ledger in ledgers for met in ledger.met], remaining)
    for place in before | after:
        for one, other in zip_longest(before.get(place, ()), after.get(place, ())):
            if one is None or other is None or one[1] != other[1]:
                misplaced += [_misplaced(side[0], builder) for side in (one, other) if side is not None]
    wrong = [record for ledger in ledgers for record in _blaming_moves(misplaced, ledger)]
    wrong += _other_ways(builder.ledger.passed, [passed for ledger in ledgers for passed in ledger.passed], builder)
    wrong += _counted(builder.ledger.numbers, [number for ledger in ledgers for number in ledger.numbers], builder)
    for ledger in ledgers:
        for channel, done in ledger.alone.items():
            if channel < len(builder.atoms) and done != builder.ledger.alone[channel]:
                ids = torch.tensor([channel])
                wrong.append(LockRecord(ids, "treated by its position, which moves after a cut", None))
        wrong += [replace(record, ids=_known(record.ids, builder)) for record in ledger.locks]
    return wrong


def _by_place(meetings: list[Meeting], remaining: Remaining) -> dict[Site, list[tuple[Meeting, tuple[bytes, bytes]]]]:
    found: dict[Site, list[tuple[Meeting, tuple[bytes, bytes]]]] = defaultdict(list)
    for meeting, left in zip(meetings, remaining.of(meetings), strict=True):
        found[meeting.site].append((meeting, left))
    return found


def _other_ways(
    before: list[tuple[Site, Label]], after: list[tuple[Site, Label]], builder: GraphBuilder
) -> list[LockRecord]:
    """List channels that passed an operation only before or only after the cut: the code decided by their number."""
    different = {site for site, _ in before} ^ {site for site, _ in after}
    return [
        LockRecord(_known(ids_in(label), builder), DECIDED, site)
        for site, label in (*before, *after)
        if site in different
    ]


def _counted(before: list[FactorRecord], after: list[FactorRecord], builder: GraphBuilder) -> list[LockRecord]:
    """List channels that a line of code scaled or shifted by other numbers than before the cut."""
    numbers: dict[Site, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for side, entries in enumerate((before, after)):
        for site, values, _ in entries:
            numbers[site][side].add(repr(values))
    return [
        LockRecord(_known(ids_in(label), builder), COUNTED, site)
        for site, _, labels in (*before, *after)
        if numbers[site][0] != numbers[site][1]
        for label in labels
    ]


def _misplaced(meeting: Meeting, builder: GraphBuilder) -> LockRecord:
    ids = meeting.a if meeting.b is None else torch.cat([meeting.a, meeting.b])
    return LockRecord(_known(ids[ids >= 0], builder), f"{HARD_CODED}: channels arrive displaced", meeting.site)


def _culprits(broken: Broken, graph: ChannelGraph, builder: GraphBuilder, patience: bool) -> list[LockRecord]:
    """Lock what is to blame for a trial that broke off, as little as possible but something."""
    ledger, site = broken.ledger, broken.ledger.current
    for labels in _suspects(broken, builder, patience):
        reason = f"{HARD_CODED}: {broken.reason}"
        records = [LockRecord(_known(ids_in(label), builder), reason, site) for label in labels]
        found = _whole_groups(records, graph, builder)
        if found:
            found = _blaming_moves(found, ledger)
            return found + _whole_groups(_same_line_elsewhere(found, builder), graph, builder)
    return []


def _suspects(broken: Broken, builder: GraphBuilder, patience: bool) -> Iterator[list[Label]]:
    """List what may be to blame, the likeliest first.

    What flowed into the operation that failed; if Python failed between operations, what its function moved or used, in
    this module or in any.  When trial after trial fails (`patience` is over), what passes the same line of code.
    """
    ledger, site, known = broken.ledger, broken.ledger.current, builder.ledger
    if patience and not ledger.finished:
        yield ledger.current_labels
        yield ledger.current_weights
    for places in (known.moves, known.passed) if patience else ():
        inside = [(place, label) for place, label in places if (place.file, place.function) == broken.function]
        yield [label for place, label in inside if site and place.module.startswith(site.module)]
        yield [label for _, label in inside]
    yield [label for place, label in known.passed if site and place.code == site.code]
    yield [(torch.arange(len(builder.component)),)]


def _same_line_elsewhere(found: list[LockRecord], builder: GraphBuilder) -> list[LockRecord]:
    """When a line was to blame in several modules, lock what passes it in all others too."""
    more = []
    for site, reason in {
        record.site: record.reason for record in found if record.site and record.site.op in SIZED
    }.items():
        builder.blamed[site.code].add(site.module)
        if len(builder.blamed[site.code]) >= REPEATED:
            elsewhere = [label for place, label in builder.ledger.moves if place.code == site.code]
            more += [LockRecord(ids_in(label), reason, site) for label in elsewhere]
    return more


def _blaming_moves(records: list[LockRecord], ledger: Ledger) -> list[LockRecord]:
    """Name as the place the last line that cut the channels up, where there is one: there the size will be written."""
    sized = [(site, ids_in(label)) for site, label in reversed(ledger.moves) if site.op in SIZED] if records else []
    size = 1 + max(
        (int(ids.max()) for ids in (*(ids for _, ids in sized), *(r.ids for r in records)) if len(ids)), default=0
    )

    def blamed(record: LockRecord) -> LockRecord:
        wrong = torch.zeros(size, dtype=torch.bool)
        wrong[record.ids] = True
        return replace(record, site=next((site for site, ids in sized if bool(wrong[ids].any())), record.site))

    return [blamed(record) for record in records]


def _known(ids: Tensor, builder: GraphBuilder) -> Tensor:
    """Drop ids that were made in this run only."""
    return ids[ids < len(builder.component)]


def _whole_groups(records: list[LockRecord], graph: ChannelGraph, builder: GraphBuilder) -> list[LockRecord]:
    """Widen records to all channels of the free groups that they touch; drop those that touch none."""
    widened = []
    for record in records:
        touched = builder.owner[builder.component[record.ids.numpy()]]
        for index in np.unique(touched[touched >= 0]):
            members = np.flatnonzero(builder.owner[builder.component] == index)
            widened.append(LockRecord(torch.from_numpy(members), record.reason, record.site))
    return widened


def kept_positions(graph: ChannelGraph, removed: Removed) -> dict[str, dict[int, Tensor]]:
    """Turn removed channels into the positions that stay, for every axis that changes."""
    stays: dict[tuple[str, int, int], Positions] = {}
    for index, channels in removed.items():
        for axis in graph.groups[index].axes if len(channels) else ():
            key = (axis.parameter, axis.axis, axis.blocks)
            stays.setdefault(key, np.ones(axis.size, dtype=np.bool_))[axis.positions[channels]] = False
    kept: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for (name, axis_index, blocks), mask in stays.items():
        left = torch.from_numpy(np.flatnonzero(mask))
        kept[name][axis_index] = left if blocks == 1 else left.view(blocks, len(left) // blocks) % (len(mask) // blocks)
    return kept


def kept_counts(graph: ChannelGraph, removed: Removed) -> dict[tuple[str, str, int | None], int]:
    """Count anew for every number of channels that a module keeps."""
    if not graph.sizes:
        return {}
    gone = {(g, int(c)) for g, channels in removed.items() for c in channels}
    return {size.key: sum((int(g), int(c)) not in gone for g, c in size.channels) for size in graph.sizes}
