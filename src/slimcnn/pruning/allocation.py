"""Allocation: from scores and a target to a plan, that is, which channels of each group to remove.

Each scope is an order in which channels are removed until the target is met. Local: every group loses channels at the
same rate, so the order is by the share of the group that is already removed. Global: by score, divided by the group's
mean unless the criterion's scores are comparable. Sensitivity: by measured output error per saving.

With macs, params, bytes or memory, channels of the residual stream are kept if the target can be met without them
(`Target.residual`): every block reads and writes the stream. On ResNet-20 without training, that is worth 0.5
percentage points of top-1 at 0.75 of the MACs and 4 at 0.35 (benchmarks/defaults.md). If the target needs them, they
are removed after the channels inside the blocks.

Running memory is a peak, so removing most channels saves nothing. Ranking by the saving at the peak of the whole
network is worst, because the peak moves. So channels are removed in the order for MACs until the target is met, and
then the removals that the target does not need are undone, the most expensive first. On ResNet-20 at 0.7 of the
memory, that removes 20 channels at a measured cost of 9.0 (sum of output errors); the order alone, 139 channels at
25.2; ranking by savings at the peak, 15 channels of the stem at 89.2; ranking again before every channel by the
activations above the limit, 26 at 9.7.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from glob import escape
from itertools import accumulate, pairwise

import numpy as np
import torch

from slimcnn.errors import SlimcnnError, TargetError, TargetUnreachable
from slimcnn.graph import ChannelGraph, ChannelGroup
from slimcnn.pruning.latency import LatencyModel
from slimcnn.pruning.limits import Counts, Limit, limits_of, reached_by, unreachable
from slimcnn.pruning.plan import Plan
from slimcnn.pruning.scores import Scores
from slimcnn.pruning.targets import UNEVEN, Target
from slimcnn.pruning.tradeoff import error_at, worthwhile

INSIDE_FIRST = 2 / 3
"""Share of the channels inside residual blocks that is removed before the first channel of the residual stream."""


@dataclass(frozen=True)
class Removal:
    """One step of the removal order: the next channels of a group and of the groups that must lose equally many."""

    turn: tuple[bool, float]
    """Whether it waits for the channels inside the blocks, and its place in the order."""
    price: float
    """The measured error that it adds, if known, else its place in the order. Of the removals that the target does
    not need, the most expensive is undone first."""
    groups: tuple[int, ...]
    channels: tuple[int, ...]


def allocate(graph: ChannelGraph, scores: Scores, target: Target, latency: LatencyModel | None = None) -> Plan:
    """Choose the channels to remove, as few as possible, so that the target is met.

    Removal stops at the first step that meets the target, so the result is within one channel (with `round_to=r`:
    r channels) of one group. With several processes, the plan is checked to be the same on all.

    Args:
        graph: the network's channel graph, from `trace`.
        scores: the order in which a group loses channels, and, from `sensitivity`, the costs.
        target: the pruning target.
        latency: the latency model for a target with `latency_ms` (see `latency_model`).

    Raises:
        TargetError: a pattern matches nothing, or matches layers that cannot be pruned.
        TargetUnreachable: the target is missed even with all removable channels removed; the message states the best
            possible values and what limits them.
        SlimcnnError: the processes made different plans.

    >>> import slimcnn
    >>> net = slimcnn.build("resnet20")
    >>> graph = slimcnn.trace(net, torch.zeros(1, 3, 32, 32))
    >>> plan = allocate(graph, slimcnn.score(net, graph, "l2"), Target(macs=0.5))
    >>> 0.48 < graph.macs(plan.counts(graph)) / graph.macs() <= 0.5
    True
    """
    if target.residual == "auto" and target.pruning_ratio is None and any(group.residual for group in graph.groups):
        try:
            inner = allocate(graph, scores, replace(target, residual="inner"), latency)
            return replace(inner, target=target.describe())
        except TargetUnreachable:
            pass  # channels of the residual stream are needed too
    _check_scores(graph, scores, target)
    limits = limits_of(graph, target, latency)
    protected = _with_companions(graph, _matching(graph, target.protect, "protect"))
    fixed = _fixed_counts(graph, scores, target, protected)
    stay = {
        i
        for i, group in enumerate(graph.groups)
        if group.name in scores.unscored or (group.residual and target.residual in ("inner", "scatter"))
    }
    stay = _with_companions(graph, stay) | protected
    free = [bundle for bundle in graph.bundles if bundle[0] not in stay and bundle[0] not in fixed]
    counts = np.zeros(len(graph.groups), dtype=np.int64)
    for i, n in fixed.items():
        counts[i] = n
    if target.pruning_ratio is not None and target.scope == "local":
        for bundle in free:
            counts[list(bundle)] = _allowed(graph, bundle, target.pruning_ratio, target)
    else:
        counts = _take(graph, target, counts, _steps(graph, scores, target, free, limits), limits)
    if target.min_channels == 0:
        _remove_unused(graph, counts)
    if target.pruning_ratio and not counts.any():
        raise unreachable(graph, target, counts, limits)
    removed = {}
    for i in map(int, np.flatnonzero(counts)):
        group = graph.groups[i]
        keep = set(scores.keep(group.name, group.channels - int(counts[i])).tolist())
        removed[group.name] = tuple(c for c in range(group.channels) if c not in keep)
    notes = tuple(f"{name} keeps all channels: {why}" for name, why in scores.unscored.items())
    plan = Plan(graph.fingerprint, removed, scores.criterion, target.describe(), notes)
    _assert_equal_on_all_processes(plan, graph)
    return plan


def _remove_unused(graph: ChannelGraph, counts: Counts) -> None:
    """Remove all channels inside a branch whose readers have lost all their outputs."""
    before = -1
    while before != counts.sum():
        before = counts.sum()
        emptied = [i for i, group in enumerate(graph.groups) if counts[i] == group.channels]
        for bundle in graph.bundles:
            if all(graph.groups[i].branch and set(graph.groups[i].feeds) <= set(emptied) for i in bundle):
                for i in bundle:
                    counts[i] = graph.groups[i].channels


def _check_scores(graph: ChannelGraph, scores: Scores, target: Target) -> None:
    if target.scope == "sensitivity" and {group.name for group in graph.groups} - scores.costs.keys():
        raise TargetError("scope='sensitivity' needs measured costs: pass sensitivity(model, graph, scores, images)")
    if target.residual == "scatter" and not graph.scattered:
        raise TargetError("residual='scatter' needs a network rewritten by slimcnn.scatter(model, example)")
    for group in graph.groups:
        found = scores.values.get(group.name)
        if found is None or len(found) != group.channels:
            shown = "none" if found is None else len(found)
            raise TargetError(
                f"the scores are for another network: {group.name!r} has {group.channels} channels and {shown} scores; "
                "score this network with this graph"
            )


def _matching(graph: ChannelGraph, patterns: Sequence[str], asked: str) -> set[int]:
    found: set[int] = set()
    for pattern in patterns:
        every = [name for group in graph.groups for name in (group.name, *group.layers)]
        every += [lock.layer for lock in graph.locked]
        # A name that messages print may hold brackets, such as fc[0-9].
        meant = escape(pattern) if pattern in every else pattern
        if not any(_is_meant(name, meant) for name in every):
            close = get_close_matches(pattern, every, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            names = ", ".join(group.name for group in graph.groups[:6])
            raise TargetError(f"{asked}: the pattern {pattern!r} matches no layer; {hint}Groups here: {names} ...")
        found |= {
            i
            for i, group in enumerate(graph.groups)
            if any(_is_meant(name, meant) for name in (group.name, *group.layers))
        }
    return found


def _is_meant(name: str, pattern: str) -> bool:
    """Return whether a pattern matches a layer, or a module that holds it.

    >>> [_is_meant("layer1.0.conv1", pattern) for pattern in ("layer1", "layer?.0", "*.conv1", "layer10", "layer")]
    [True, True, True, False, False]
    """
    modules = accumulate(name.split("."), lambda outer, inner: f"{outer}.{inner}")
    return any(fnmatchcase(module, pattern) for module in modules)


def check_patterns(graph: ChannelGraph, target: Target) -> None:
    """Raise `TargetError` if a pattern of the target matches no layer."""
    _matching(graph, target.protect, "protect")
    _matching(graph, list(target.per_layer), "per_layer")


def _with_companions(graph: ChannelGraph, groups: set[int]) -> set[int]:
    """Add the groups that must lose as many channels as one of the given groups."""
    return {other for i in groups for other in graph.companions[i]}


def _fixed_counts(graph: ChannelGraph, scores: Scores, target: Target, protected: set[int]) -> dict[int, int]:
    fixed: dict[int, int] = {}
    for pattern, ratio in target.per_layer.items():
        matching = _matching(graph, [pattern], "per_layer")
        hits = _with_companions(graph, matching)
        unscored = [graph.groups[i].name for i in hits - protected if graph.groups[i].name in scores.unscored]
        if ratio and not hits:
            lock = next(lock for lock in graph.locked if pattern == lock.layer or _is_meant(lock.layer, pattern))
            raise TargetError(f"per_layer: {pattern!r} matches {lock.layer}, which is locked: {lock.reason}")
        if ratio and unscored:
            raise TargetError(
                f"per_layer: {pattern!r} matches {unscored[0]}, which {scores.criterion} cannot score: "
                f"{scores.unscored[unscored[0]]}"
            )
        for bundle in {graph.companions[i] for i in hits - protected}:
            fixed |= dict(zip(bundle, _allowed(graph, bundle, ratio, target), strict=True))
    if target.per_layer and not target.sized and target.pruning_ratio is None:
        fixed |= {i: 0 for i in range(len(graph.groups)) if i not in fixed}
    return fixed


def _allowed(graph: ChannelGraph, bundle: Sequence[int], ratio: float, target: Target) -> list[int]:
    """Round a share of a bundle's channels down to allowed numbers of removed channels."""
    groups = [graph.groups[i] for i in bundle]
    gone = _may_go(groups, target)[:, None] * np.array([len(group.parts) for group in groups])
    within = gone[(gone <= np.array([group.channels * ratio + 1e-9 for group in groups])).all(axis=1)]
    most: list[int] = within[-1].tolist() if len(within) else [0] * len(groups)
    return most


def _steps(
    graph: ChannelGraph, scores: Scores, target: Target, free: Sequence[Sequence[int]], limits: Sequence[Limit]
) -> list[Removal]:
    """List all removals in order."""
    if target.latency_ms is not None and target.scope == "sensitivity":
        return _by_price(graph, scores, target, free, limits)
    inside = {i for bundle in free for i in bundle}
    blind = target.residual == "auto" and target.scope != "sensitivity"
    spared = blind and target.pruning_ratio is None and any(graph.groups[i].residual for i in inside)
    steps = []
    for bundle in free:
        groups = [graph.groups[i] for i in bundle]
        whole = sum(group.channels for group in groups)
        values = _order(graph, scores, target, bundle, limits)
        sums = np.concatenate([[0.0], np.cumsum(values.numpy())])
        measured = scores.costs[groups[0].name] if target.scope == "sensitivity" else None
        residual, gone, before, last = any(group.residual for group in groups), 0, 0, float("-inf")
        for each in _may_go(groups, target).tolist():
            worth = float(sums[each] - sums[before]) / (each - before)
            chunk = [(each - before) * len(group.parts) for group in groups]
            gone += sum(chunk)
            # A group's channels keep their order, even if the mean of a later chunk is lower.
            last = max(last, gone / whole if target.scope == "local" else worth)
            waits = spared and (residual or gone > INSIDE_FIRST * whole)
            price = last if measured is None else float(measured[before:each].sum())
            before = each
            steps.append(Removal((waits, last), price, tuple(bundle), tuple(chunk)))
    return sorted(steps, key=lambda step: step.turn)


def _order(
    graph: ChannelGraph, scores: Scores, target: Target, bundle: Sequence[int], limits: Sequence[Limit]
) -> torch.Tensor:
    """Compute the ranking values of a bundle's channels (one of each part), in removal order."""
    groups = [graph.groups[i] for i in bundle]
    if target.scope != "sensitivity":
        return torch.cat([_ranked(scores, group) for group in groups], dim=1).mean(dim=1)
    one = np.zeros(len(graph.groups), dtype=np.int64)
    for i, group in zip(bundle, groups, strict=True):
        one[i] = len(group.parts)
    cost = next((limit.cost for limit in limits if limit.name not in UNEVEN), graph.macs)
    return scores.costs[groups[0].name] / max(cost(np.zeros_like(one)) - cost(one), 1)


def _by_price(
    graph: ChannelGraph, scores: Scores, target: Target, free: Sequence[Sequence[int]], limits: Sequence[Limit]
) -> list[Removal]:
    """List the removals on the convex hull (see `tradeoff`), cheapest first; whole blocks may vanish.

    Removals that save no latency come last; they are listed only if the target has other limits too.
    """
    limit = limits[-1]
    none = np.zeros(len(graph.groups), dtype=np.int64)
    whole, steps = limit.cost(none), []
    for bundle in free:
        groups = [graph.groups[i] for i in bundle]
        parts = np.array([len(group.parts) for group in groups])
        points = []
        for gone in _may_go(groups, target).tolist():
            counts = none.copy()
            counts[list(bundle)] = gone * parts
            saving = whole - limit.cost(counts)
            points.append((gone, saving, error_at(scores.errors[groups[0].name], gone)))
        errors = {0: 0.0} | {gone: error for gone, _, error in points}
        offers = [(before, after, (False, price)) for before, after, price in worthwhile(points)]
        last = offers[-1][1] if offers else 0
        rest = [gone for gone in errors if gone >= last] if len(limits) > 1 else []
        offers += [(before, after, (True, errors[after])) for before, after in pairwise(rest)]
        for before, after, turn in offers:
            chunk = tuple(((after - before) * parts).tolist())
            steps.append(Removal(turn, errors[after] - errors[before], tuple(bundle), chunk))
    return sorted(steps, key=lambda step: step.turn)


def _ranked(scores: Scores, group: ChannelGroup) -> torch.Tensor:
    """Sort the scores in every part of a group, lowest first: (channels of a part, parts)."""
    values = scores.ranked(group.name)
    return torch.stack([values[torch.from_numpy(part)].sort().values for part in group.parts], dim=1)


def _may_go(groups: Sequence[ChannelGroup], target: Target) -> Counts:
    """List the allowed numbers of channels to remove from every part, ascending; the rest obeys the target's minimums.

    >>> group = ChannelGroup("conv", 20, (), (), (), parts=(np.arange(20),))
    >>> _may_go([group], Target(macs=0.5, round_to=8)).tolist()
    [4, 12]
    """
    gone = np.arange(1, len(groups[0].parts[0]) + 1)
    allowed = np.ones(len(gone), dtype=np.bool_)
    for group in groups:
        left = group.channels - gone * len(group.parts)
        least = max(target.min_channels, target.round_to, group.least, math.ceil(target.min_share * group.channels))
        allowed &= (left >= least) & (left % target.round_to == 0)
    allowed[-1] |= target.min_channels == 0 and all(group.branch for group in groups)
    return gone[allowed]


def _take(graph: ChannelGraph, target: Target, base: Counts, steps: list[Removal], limits: Sequence[Limit]) -> Counts:
    """Take the fewest steps that meet the target, by bisection: every step makes the network smaller."""

    groups = np.array([i for step in steps for i in step.groups], dtype=np.int64)
    channels = np.array([k for step in steps for k in step.channels], dtype=np.int64)
    ends = np.cumsum([0, *(len(step.groups) for step in steps)])

    def after(n: int) -> Counts:
        counts = base.copy()
        np.add.at(counts, groups[: ends[n]], channels[: ends[n]])
        return counts

    met = reached_by(graph, target, limits)
    if not met(after(len(steps))):
        raise unreachable(graph, target, after(len(steps)), limits)
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        if met(after(middle)):
            high = middle
        else:
            low = middle + 1
    counts, taken = after(low), steps[:low]
    if target.latency_ms is not None and taken:
        counts = _no_more_than_needed(graph, target, after(low - 1), taken[-1], met)
        part = (counts - after(low - 1))[list(taken[-1].groups)]
        taken[-1] = replace(taken[-1], channels=tuple(part.tolist()))
    return counts if set(UNEVEN).isdisjoint(target.sized) else _give_back(counts, taken, met)


def _give_back(counts: Counts, taken: list[Removal], met: Callable[[Counts], bool]) -> Counts:
    """Undo removals that the target does not need, the most expensive first; within a group, the last one first."""
    last: dict[tuple[int, ...], list[Removal]] = defaultdict(list)
    for removal in taken:
        last[removal.groups].append(removal)
    while last:
        groups = max(last, key=lambda groups: last[groups][-1].price)
        fewer = counts.copy()
        fewer[list(groups)] -= last[groups].pop().channels
        if met(fewer):
            counts = fewer
        if not last[groups] or counts is not fewer:
            del last[groups]  # the earlier removals of this group are needed too
    return counts


def _no_more_than_needed(
    graph: ChannelGraph, target: Target, before: Counts, last: Removal, met: Callable[[Counts], bool]
) -> Counts:
    """Take the smallest part of the last removal that meets the target: removals for latency are large."""
    groups, whole = [graph.groups[i] for i in last.groups], list(last.groups)
    parts = np.array([len(group.parts) for group in groups])
    for gone in _may_go(groups, target).tolist():
        counts = before.copy()
        counts[whole] = np.maximum(gone * parts, before[whole])
        if met(counts):
            return counts
    raise AssertionError("the whole removal meets the target")


def _assert_equal_on_all_processes(plan: Plan, graph: ChannelGraph) -> None:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    mine = hashlib.sha256(plan.to_json(graph).encode()).hexdigest()
    found: list[str | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, mine)
    if len(set(found)) > 1:
        raise SlimcnnError(
            f"the processes made different plans ({len(set(found))} of {len(found)}): give every process the same "
            "weights, criterion and seed"
        )
