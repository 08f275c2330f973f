"""Trial cuts: prune a copy, run it on channel ids, and check that every channel arrives in the same place as before.

Hard-coded sizes (`x.view(n, 64, 49)`, `x[:, :32]`, a split into fixed widths) do not change with pruning. The
dispatcher cannot distinguish them from computed sizes; a trial cut can.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise, zip_longest
from typing import Any

import numpy as np
import torch
from torch import nn

from slimcnn.graph.axis_ids import AxisIds
from slimcnn.graph.channels import ChannelGraph, everything
from slimcnn.graph.copying import shallow_copy
from slimcnn.graph.execution import Broken, OutputOf, watch_this
from slimcnn.graph.fast.module_tree import named_tensors
from slimcnn.graph.fast.shape_only import without_values
from slimcnn.graph.ids import Label, ids_in
from slimcnn.graph.operations import operation
from slimcnn.graph.partition import Partition
from slimcnn.graph.removal import Removed, kept_counts, kept_positions
from slimcnn.graph.shrinking import Kept, KeptCounts, shrink
from slimcnn.graph.trace_record import LockRecord, Meeting, NeedsValues, OperationRun, Site, TraceRecord
from slimcnn.graph.trial_channels import some_of_each

PATIENCE = 10
"""Trials that lock only what failed; later trials lock everything that passes the same line of code."""


HARD_CODED = "hard-coded size in the code"

BY_POSITION = "treated by its position, which changes with pruning"

COUNTED = "scaled or shifted by a value that depends on the number of channels"

DECIDED = "the code branches on the number of channels"

REPEATED = 3
"""Number of modules in which a line of code must fail before it is locked in all modules."""


@dataclass(frozen=True)
class RunMode:
    """The settings of one run of the network."""

    example: Any
    training: bool
    shape_only: bool
    inexact: bool = False
    output: OutputOf = everything


@dataclass(frozen=True)
class Failure:
    """What a failed trial cut requires; without locks, it succeeded."""

    locks: list[LockRecord]
    function: tuple[str, str] | None = None
    """File and function in which Python failed between two operations, such as an assertion on a size."""


@dataclass(frozen=True)
class TrialCut:
    """The original graph and record, with which a trial cut is compared."""

    graph: ChannelGraph
    partition: Partition
    axis_ids: AxisIds
    record: TraceRecord
    """The record of the original network."""
    blamed: dict[tuple[str, int], set[str]]
    """Lines of code that failed in earlier trials → modules in which they failed; this trial adds its own."""


def trial_prune(model: nn.Module, runs: list[RunMode], trial: TrialCut, seed: int) -> Failure:
    """Remove about half of every group from a copy; return the locks that failures require, empty if none failed."""
    if not trial.graph.groups:
        return Failure([])
    removed = some_of_each(trial.graph, seed)
    kept, counts = kept_positions(trial.graph, removed), kept_counts(trial.graph, removed)
    unset = without_values(named_tensors(model), kept) if all(run.shape_only for run in runs) else frozenset()
    made = cache(partial(_cut_copy, model, kept, counts))
    labels = trial.axis_ids.labels(made(unset), kept)
    records = []
    for run in runs:
        try:
            records.append(_trace_cut(made, run, labels, len(trial.partition.component), unset))
        except Broken as broken:
            last = broken.record.last
            locks = _suspects_locked(broken, trial, patience=seed < PATIENCE)
            return Failure(locks, broken.function if last and last.finished else None)
    return Failure(_whole_groups(_failures(records, trial, Remaining(trial, removed)), trial))


def _cut_copy(model: nn.Module, kept: Kept, counts: KeptCounts, unset: frozenset[str]) -> nn.Module:
    cut = shallow_copy(model)
    shrink(cut, kept, counts, unset)
    return cut


def _trace_cut(
    made: Callable[[frozenset[str]], nn.Module], run: RunMode, labels: Mapping[str, Label], next_id: int,
    unset: frozenset[str],
) -> TraceRecord:  # fmt: skip
    known = (labels, next_id)
    try:
        cut = made(unset).train(run.training)
        return watch_this(cut, run.example, *known, run.shape_only, run.inexact, run.output, unset).record
    except NeedsValues:  # the original network did not
        cut = made(frozenset()).train(run.training)
        return watch_this(cut, run.example, *known, False, run.inexact, run.output).record


class Remaining:
    """Compute the ids that must remain after a trial cut."""

    def __init__(self, trial: TrialCut, removed: Removed) -> None:
        owner, channel, own = trial.partition.owner, trial.partition.channel, len(trial.axis_ids)
        widest = int(channel.max(initial=0)) + 1
        gone = np.zeros((int(owner.max(initial=-1)) + 1, widest), dtype=np.bool_)
        for group, channels in removed.items():
            gone[group, channels] = True
        lost = np.zeros(len(owner), dtype=np.bool_)
        lost[owner >= 0] = gone[owner[owner >= 0], channel[owner >= 0]]
        self._is_kept = np.ones(own + 2, dtype=np.bool_)
        """For every id of parameters and buffers; False for all other ids, True (last entry) for -1."""
        self._is_kept[:own] = ~lost[trial.partition.component[:own]]
        self._is_kept[own] = False

    def of(self, meetings: list[Meeting]) -> list[tuple[bytes, bytes]]:
        """Return the remaining ids of parameters and buffers on both sides of every meeting.

        -1 stands for positions without a channel.
        """
        sides = [side for meeting in meetings for side in (meeting.a, meeting.b)]
        arrays = [np.empty(0, dtype=np.int64) if side is None else side.numpy() for side in sides]
        numbers = np.concatenate([*arrays, np.empty(0, dtype=np.int64)])
        is_kept = self._is_kept[np.minimum(numbers, len(self._is_kept) - 2)]
        ends = np.cumsum([0, *map(len, arrays)])
        left = np.concatenate([[0], np.cumsum(is_kept)])[ends].tolist()
        kept = numbers[is_kept]
        found = [kept[start:end].tobytes() for start, end in pairwise(left)]
        return list(zip(found[::2], found[1::2], strict=True))


def _failures(records: list[TraceRecord], trial: TrialCut, remaining: Remaining) -> list[LockRecord]:
    """Lock channels that met other channels than before the cut, were treated differently, or were locked again."""
    runs_before, runs_after = trial.record.runs, [run for record in records for run in record.runs]
    misplaced = []
    before, after = _by_site(runs_before, remaining), _by_site(runs_after, remaining)
    for site in before | after:
        for one, other in zip_longest(before.get(site, ()), after.get(site, ())):
            if one is None or other is None or one[1] != other[1]:
                misplaced += [_misplaced(side[0], site, trial) for side in (one, other) if side is not None]
    wrong = [record for runs in records for record in _blaming_moves(misplaced, runs)]
    wrong += _branched(runs_before, runs_after, trial)
    wrong += _scaled(runs_before, runs_after, trial)
    wrong += _changed_alone(runs_before, runs_after, trial)
    wrong += [replace(lock, ids=trial.partition.known(lock.ids)) for record in records for lock in record.locks]
    return wrong


def _by_site(runs: list[OperationRun], remaining: Remaining) -> dict[Site, list[tuple[Meeting, tuple[bytes, bytes]]]]:
    meetings = [(run.site, meeting) for run in runs for meeting in run.meetings]
    found: dict[Site, list[tuple[Meeting, tuple[bytes, bytes]]]] = defaultdict(list)
    for (site, meeting), left in zip(meetings, remaining.of([meeting for _, meeting in meetings]), strict=True):
        found[site].append((meeting, left))
    return found


def _branched(before: list[OperationRun], after: list[OperationRun], trial: TrialCut) -> list[LockRecord]:
    """Lock channels that passed an operation only before or only after the cut: the code branches on their number."""
    sites = [{run.site for run in runs if run.activations} for runs in (before, after)]
    different = sites[0] ^ sites[1]
    return [
        LockRecord(trial.partition.known(ids_in(label)), DECIDED, run.site)
        for run in (*before, *after)
        if run.site in different
        for label in run.activations
    ]


def _scaled(before: list[OperationRun], after: list[OperationRun], trial: TrialCut) -> list[LockRecord]:
    """Lock channels that a line of code scaled or shifted by other values than before the cut."""
    numbers: dict[Site, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for side, runs in enumerate((before, after)):
        for run in runs:
            if run.numbers:
                numbers[run.site][side].add(repr(run.numbers))
    return [
        LockRecord(trial.partition.known(ids_in(label)), COUNTED, run.site)
        for run in (*before, *after)
        if run.numbers and numbers[run.site][0] != numbers[run.site][1]
        for label in (*run.activations, *run.weights)
    ]


def _changed_alone(before: list[OperationRun], after: list[OperationRun], trial: TrialCut) -> list[LockRecord]:
    """Lock single channels (`x[:, i]`) to which other operations were applied than before the cut."""
    expected, found = _alone_by_channel(before), _alone_by_channel(after)
    return [
        LockRecord(torch.tensor([channel]), BY_POSITION, None)
        for channel, done in found.items()
        if channel < len(trial.axis_ids) and done != expected[channel]
    ]


def _alone_by_channel(runs: list[OperationRun]) -> dict[int, list[str]]:
    done: dict[int, list[str]] = defaultdict(list)
    for run in runs:
        for channel, description in run.alone:
            done[channel].append(description)
    return done


def _misplaced(meeting: Meeting, site: Site, trial: TrialCut) -> LockRecord:
    ids = meeting.a if meeting.b is None else torch.cat([meeting.a, meeting.b])
    return LockRecord(trial.partition.known(ids[ids >= 0]), f"{HARD_CODED}: channels end up in the wrong place", site)


def _suspects_locked(broken: Broken, trial: TrialCut, patience: bool) -> list[LockRecord]:
    """Lock the likeliest cause of a failed trial: as few groups as possible, but at least one."""
    reason = f"{HARD_CODED}: {broken.reason}"
    site = broken.record.last.site if broken.record.last else None
    for labels in _suspects(broken, trial, patience):
        records = [LockRecord(trial.partition.known(ids_in(label)), reason, site) for label in labels]
        found = _read_first(_whole_groups(records, trial), trial)
        if found:
            found = _blaming_moves(found, broken.record)
            return found + _whole_groups(_same_line_in_other_modules(found, trial), trial)
    return []


def _read_first(locks: list[LockRecord], trial: TrialCut) -> list[LockRecord]:
    """Leave out groups that no weight reads, where others failed with them: `x[:, :8]` may drop all their channels.

    The next trial shows whether they can go.
    """
    component, owner = trial.partition.component, trial.partition.owner
    read = [lock for lock in locks if trial.graph.groups[int(owner[component[int(lock.ids[0])]])].reads]
    return read or locks


def _suspects(broken: Broken, trial: TrialCut, patience: bool) -> Iterator[list[Label]]:
    """Yield the labels that may have caused the failure, the likeliest first.

    First the inputs of the operation that failed. If Python failed between operations: the labels that the failing
    function moved or used, in this module or in any. Last, and when `patience` is over: all labels that pass the same
    line of code.
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


def _same_line_in_other_modules(found: list[LockRecord], trial: TrialCut) -> list[LockRecord]:
    """If a line of code failed in several modules, lock the channels that pass it in all others too."""
    more = []
    reasons = {lock.site: lock.reason for lock in found if lock.site and operation(lock.site.op).sized}
    for site, reason in reasons.items():
        trial.blamed[site.code].add(site.module)
        if len(trial.blamed[site.code]) >= REPEATED:
            elsewhere = [label for run in trial.record.runs if run.site.code == site.code for label in _moved(run)]
            more += [LockRecord(ids_in(label), reason, site) for label in elsewhere]
    return more


def _blaming_moves(locks: list[LockRecord], record: TraceRecord) -> list[LockRecord]:
    """Set the site to the last operation that took a size, if there is one: the size is probably hard-coded there."""
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
    """Extend locks to all channels of the free groups that they touch; drop locks that touch none."""
    return [
        LockRecord(trial.partition.members(group), lock.reason, lock.site)
        for lock in locks
        for group in sorted(trial.partition.groups_of(lock.ids))
    ]
