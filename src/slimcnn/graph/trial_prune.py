"""Trial cuts: prune a copy, run it on channel ids, and check that every channel arrives where it did before.

Sizes that are written into the code (`x.view(n, 64, 49)`, `x[:, :32]`, a split into fixed widths) do not follow a
cut. The dispatcher cannot tell them from sizes that are computed, so a trial shows them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from typing import Any

import numpy as np
import torch
from torch import nn

from slimcnn.graph.axis_ids import AxisIds
from slimcnn.graph.channels import ChannelGraph
from slimcnn.graph.copying import shallow_copy
from slimcnn.graph.execution import Broken, watch_this
from slimcnn.graph.ids import Label, ids_in
from slimcnn.graph.operations import operation
from slimcnn.graph.partition import Partition
from slimcnn.graph.removal import Removed, kept_counts, kept_positions
from slimcnn.graph.shrinking import shrink
from slimcnn.graph.trace_record import LockRecord, Meeting, NeedsValues, OperationRun, Site, TraceRecord
from slimcnn.graph.trial_channels import some_of_each

PATIENCE = 10
"""Trials that lock only what failed; after that, whatever runs through the same line of code."""


HARD_CODED = "a size in the code does not follow a cut"

BY_POSITION = "treated by its position, which moves after a cut"

COUNTED = "scaled or shifted by a number that depends on how many channels there are"

DECIDED = "the code decides by how many channels there are"

REPEATED = 3
"""In so many modules a line of code was to blame before it is taken to be wrong in all of them."""


@dataclass(frozen=True)
class RunMode:
    """One way to run the network."""

    example: Any
    training: bool
    shape_only: bool
    inexact: bool = False


@dataclass(frozen=True)
class TrialCut:
    """What a trial cut is compared with."""

    graph: ChannelGraph
    partition: Partition
    axis_ids: AxisIds
    record: TraceRecord
    """Of the run of the original network."""
    blamed: dict[tuple[str, int], set[str]]
    """Lines of code that broke earlier trials, with the modules in which they did; this trial adds its own."""


def trial_prune(model: nn.Module, runs: list[RunMode], trial: TrialCut, seed: int) -> list[LockRecord]:
    """Cut about half of every group from a copy and list what has to be locked; empty if every channel arrived."""
    if not trial.graph.groups:
        return []
    removed = some_of_each(trial.graph, seed)
    kept = kept_positions(trial.graph, removed)
    cut = shallow_copy(model)
    shrink(cut, kept, kept_counts(trial.graph, removed))
    labels = trial.axis_ids.labels(cut, kept)
    records = []
    for run in runs:
        try:
            records.append(_watch_cut(cut, run, labels, len(trial.partition.component)))
        except Broken as broken:
            return _suspects_locked(broken, trial, patience=seed < PATIENCE)
    return _whole_groups(_displaced(records, trial, Remaining(trial, removed)), trial)


def _watch_cut(cut: nn.Module, run: RunMode, labels: Mapping[str, Label], next_id: int) -> TraceRecord:
    cut.train(run.training)
    try:
        return watch_this(cut, run.example, labels, next_id, run.shape_only, run.inexact).record
    except NeedsValues:  # the original network did not
        return watch_this(cut, run.example, labels, next_id, shape_only=False, inexact=run.inexact).record


class Remaining:
    """What must be left of ids after a cut."""

    def __init__(self, trial: TrialCut, removed: Removed) -> None:
        owner, channel, own = trial.partition.owner, trial.partition.channel, len(trial.axis_ids)
        widest = int(channel.max(initial=0)) + 1
        gone = np.zeros((int(owner.max(initial=-1)) + 1, widest), dtype=np.bool_)
        for group, channels in removed.items():
            gone[group, channels] = True
        lost = np.zeros(len(owner), dtype=np.bool_)
        lost[owner >= 0] = gone[owner[owner >= 0], channel[owner >= 0]]
        self._stays = np.ones(own + 2, dtype=np.bool_)
        """Of every id of the network's own tensors; False for all other ids, True (the last entry) for no id."""
        self._stays[:own] = ~lost[trial.partition.component[:own]]
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


def _displaced(records: list[TraceRecord], trial: TrialCut, remaining: Remaining) -> list[LockRecord]:
    """List channels that met others than in the original network, or were treated differently, or were locked again."""
    runs_before, runs_after = trial.record.runs, [run for record in records for run in record.runs]
    misplaced = []
    before, after = _by_site(runs_before, remaining), _by_site(runs_after, remaining)
    for site in before | after:
        for one, other in zip_longest(before.get(site, ()), after.get(site, ())):
            if one is None or other is None or one[1] != other[1]:
                misplaced += [_misplaced(side[0], site, trial) for side in (one, other) if side is not None]
    wrong = [record for runs in records for record in _blaming_moves(misplaced, runs)]
    wrong += _other_ways(runs_before, runs_after, trial)
    wrong += _counted(runs_before, runs_after, trial)
    wrong += _treated_by_position(runs_before, runs_after, trial)
    wrong += [replace(lock, ids=trial.partition.known(lock.ids)) for record in records for lock in record.locks]
    return wrong


def _by_site(runs: list[OperationRun], remaining: Remaining) -> dict[Site, list[tuple[Meeting, tuple[bytes, bytes]]]]:
    meetings = [(run.site, meeting) for run in runs for meeting in run.meetings]
    found: dict[Site, list[tuple[Meeting, tuple[bytes, bytes]]]] = defaultdict(list)
    for (site, meeting), left in zip(meetings, remaining.of([meeting for _, meeting in meetings]), strict=True):
        found[site].append((meeting, left))
    return found


def _other_ways(before: list[OperationRun], after: list[OperationRun], trial: TrialCut) -> list[LockRecord]:
    """List channels that passed an operation only before or only after the cut: the code decided by their number."""
    sites = [{run.site for run in runs if run.activations} for runs in (before, after)]
    different = sites[0] ^ sites[1]
    return [
        LockRecord(trial.partition.known(ids_in(label)), DECIDED, run.site)
        for run in (*before, *after)
        if run.site in different
        for label in run.activations
    ]


def _counted(before: list[OperationRun], after: list[OperationRun], trial: TrialCut) -> list[LockRecord]:
    """List channels that a line of code scaled or shifted by other numbers than before the cut."""
    numbers: dict[Site, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for side, runs in enumerate((before, after)):
        for run in runs:
            if run.numbers:
                numbers[run.site][side].add(repr(run.numbers))
    return [
        LockRecord(trial.partition.known(ids_in(label)), COUNTED, run.site)
        for run in (*before, *after)
        if run.numbers and numbers[run.site][0] != numbers[run.site][1]
        for label in run.activations
    ]


def _treated_by_position(before: list[OperationRun], after: list[OperationRun], trial: TrialCut) -> list[LockRecord]:
    """List single channels (`x[:, i]`) to which something else was done than before the cut."""
    expected, found = _done_alone(before), _done_alone(after)
    return [
        LockRecord(torch.tensor([channel]), BY_POSITION, None)
        for channel, done in found.items()
        if channel < len(trial.axis_ids) and done != expected[channel]
    ]


def _done_alone(runs: list[OperationRun]) -> dict[int, list[str]]:
    done: dict[int, list[str]] = defaultdict(list)
    for run in runs:
        for channel, description in run.alone:
            done[channel].append(description)
    return done


def _misplaced(meeting: Meeting, site: Site, trial: TrialCut) -> LockRecord:
    ids = meeting.a if meeting.b is None else torch.cat([meeting.a, meeting.b])
    return LockRecord(trial.partition.known(ids[ids >= 0]), f"{HARD_CODED}: channels arrive displaced", site)


def _suspects_locked(broken: Broken, trial: TrialCut, patience: bool) -> list[LockRecord]:
    """Lock what is to blame for a trial that failed, as little as possible but something."""
    reason = f"{HARD_CODED}: {broken.reason}"
    site = broken.record.last.site if broken.record.last else None
    for labels in _suspects(broken, trial, patience):
        records = [LockRecord(trial.partition.known(ids_in(label)), reason, site) for label in labels]
        found = _whole_groups(records, trial)
        if found:
            found = _blaming_moves(found, broken.record)
            return found + _whole_groups(_same_line_elsewhere(found, trial), trial)
    return []


def _suspects(broken: Broken, trial: TrialCut, patience: bool) -> Iterator[list[Label]]:
    """List what may be to blame, the likeliest first.

    What flowed into the operation that failed; if Python failed between operations, what its function moved or used, in
    this module or in any. When trial after trial fails (`patience` is over), what passes the same line of code.
    """
    last, known = broken.record.last, trial.record.runs
    if patience and last and not last.finished:
        yield last.activations
        yield last.weights
    if patience:
        inside = [run for run in known if (run.site.file, run.site.function) == broken.function]
        for chosen in (_moved, _passed):
            yield [
                label
                for run in inside
                if last and run.site.module.startswith(last.site.module)
                for label in chosen(run)
            ]
            yield [label for run in inside for label in chosen(run)]
    yield [label for run in known if last and run.site.code == last.site.code for label in run.activations]
    yield [(torch.arange(len(trial.partition.component)),)]


def _moved(run: OperationRun) -> list[Label]:
    return [*run.activations, *run.weights] if operation(run.site.op).moves else []


def _passed(run: OperationRun) -> list[Label]:
    return run.activations


def _same_line_elsewhere(found: list[LockRecord], trial: TrialCut) -> list[LockRecord]:
    """When a line was to blame in several modules, lock what passes it in all others too."""
    more = []
    reasons = {lock.site: lock.reason for lock in found if lock.site and operation(lock.site.op).sized}
    for site, reason in reasons.items():
        trial.blamed[site.code].add(site.module)
        if len(trial.blamed[site.code]) >= REPEATED:
            elsewhere = [label for run in trial.record.runs if run.site.code == site.code for label in _moved(run)]
            more += [LockRecord(ids_in(label), reason, site) for label in elsewhere]
    return more


def _blaming_moves(locks: list[LockRecord], record: TraceRecord) -> list[LockRecord]:
    """Name as the place the last line that cut the channels up, where there is one: there the size will be written."""
    runs = [run for run in reversed(record.runs) if operation(run.site.op).sized] if locks else []
    sized = [(run.site, ids_in(label)) for run in runs for label in reversed(_moved(run))]
    size = 1 + max(
        (int(ids.max()) for ids in (*(ids for _, ids in sized), *(k.ids for k in locks)) if len(ids)), default=0
    )

    def blamed(lock: LockRecord) -> LockRecord:
        wrong = torch.zeros(size, dtype=torch.bool)
        wrong[lock.ids] = True
        return replace(lock, site=next((site for site, ids in sized if bool(wrong[ids].any())), lock.site))

    return [blamed(lock) for lock in locks]


def _whole_groups(locks: list[LockRecord], trial: TrialCut) -> list[LockRecord]:
    """Widen locks to all channels of the free groups that they touch; drop those that touch none."""
    return [
        LockRecord(trial.partition.members(group), lock.reason, lock.site)
        for lock in locks
        for group in sorted(trial.partition.groups_of(lock.ids))
    ]
