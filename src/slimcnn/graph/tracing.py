"""trace(): run the network once on channel ids, verify with trial cuts on a copy, return the channel graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from slimcnn.graph.assembly import Assembled, assemble
from slimcnn.graph.axis_ids import AxisIds
from slimcnn.graph.channels import ChannelGraph, everything
from slimcnn.graph.copying import duplicate
from slimcnn.graph.execution import (
    Broken,
    FirstRun,
    OutputOf,
    at_another_size,
    batch_size,
    doubled,
    watch,
    watch_twice,
)
from slimcnn.graph.fast.collection import collection_paused
from slimcnn.graph.fast.module_tree import named_parameters, named_tensors
from slimcnn.graph.grouping import Traced
from slimcnn.graph.ids import Label, ids_in
from slimcnn.graph.operations import operation
from slimcnn.graph.partition import Constraints
from slimcnn.graph.size_attributes import guess_sizes, modules_at, modules_running, shared_sizes
from slimcnn.graph.trace_record import EqualParts, LockRecord
from slimcnn.graph.tracer import Tracer
from slimcnn.graph.trial_channels import trials_of_parts
from slimcnn.graph.trial_prune import Failure, RunMode, TrialCut, trial_prune

MAX_TRIALS = 30
"""Failed trial cuts after which all remaining groups are locked; each failure locks at least one more group."""


DELICATE_TRIALS = 4
"""Trial cuts that must succeed where the code selects channels: `x[:, : c // 4]` may fit one cut by luck."""


@collection_paused()
def trace(
    model: nn.Module, example: Any, inexact: bool = False, output: Callable[[Any], Any] = everything
) -> ChannelGraph:
    """Find which channels of a network must be pruned together, and which are locked.

    The network runs once in eval mode with a channel id on every value (see `tracer.py`), then again on a copy with a
    trial cut. If the code has a hard-coded size, the trial fails or channels end up in the wrong place. The groups
    that pass there are locked, with the line of code as the reason. If the code reshapes tensors with channels, the
    network is traced at a second image size too, where it accepts one; if some tensors are only read in training mode
    (auxiliary heads), in that mode too.

    Args:
        model: any `nn.Module`; it is copied, never changed.
        example: one input batch (n, c, h, w); a tuple of positional or a dict of keyword arguments, or `Inputs` for
            both; or a list of images (c, h, w) of any sizes, as detectors take it. The graph describes this input size.
        inexact: allow pruning across layer, group and RMS norms (not exact). The statistics of the remaining channels
            change, so the pruned network cannot equal the masked one; everything else is still proven.
        output: picks the tensors that count from the network's answer, such as `lambda answer: answer["out"]`; only
            their channels are kept, and only they are proven. Default: all tensors of the answer.

    Raises:
        ModelError: the network cannot be copied, does not accept the example, or the example is one image without a
            batch.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    >>> graph = trace(net, torch.zeros(1, 3, 8, 8))
    >>> [(group.name, group.channels) for group in graph.groups]
    [('0', 8)]
    >>> graph.locked[0].layer, graph.locked[0].reason
    ('3', "the network's output")
    """
    with torch.inference_mode(False):  # inside it, PyTorch shows operations to no mode
        return _trace(model, tree_map_only(Tensor, lambda t: t.detach().cpu().clone(), example), inexact, output)


def _trace(model: nn.Module, example: Any, inexact: bool, output: OutputOf) -> ChannelGraph:
    batch = batch_size(example)
    model = duplicate(model).eval()
    tensors = named_tensors(model)
    if any(tensor.device.type != "cpu" for _, tensor in tensors):
        model = model.cpu()
        tensors = named_tensors(model)
    axis_ids = AxisIds.of(model)
    labels = axis_ids.labels(model)
    first = watch_twice(model, example, batch, labels, len(axis_ids), inexact, output)
    tracer = first.tracer
    record, next_id, unread = tracer.record, tracer.next_id, tracer.unread
    runs = [RunMode(first.example, training=False, shape_only=tracer.shape_only, inexact=inexact, output=output)]
    if any(name in unread and t.is_floating_point() and t.dim() for name, t in tensors):
        with suppress(Broken):  # a network that cannot run in training mode adds no constraints there
            training = watch(model.train(), first.example, labels, next_id, inexact, output)
            runs.append(RunMode(first.example, True, training.shape_only, inexact, output))
            record, next_id = record.with_run(training.record), training.next_id
            unread = unread & training.unread
    model.eval()
    other = at_another_size(example) if record.reshapes_images and not record.size_blind else None
    larger = doubled(other, batch) if first.images > batch else other
    second = _watch_larger(model, larger, first, labels, next_id, inexact, output)
    if second is not None:
        runs.append(RunMode(larger, False, second.shape_only, inexact, output))
        record, next_id = record.with_run(second.record), second.next_id
        unread = unread & second.unread
    unreached = [name for name, t in tensors if name in unread and t.dim() > 1 and isinstance(t, nn.Parameter)]
    traced = Traced.of(model, axis_ids, record, next_id, first.images, unreached)
    constraints = Constraints.of(record, next_id).lock(_alternatives(model, labels, unreached))
    found = assemble(model, example, batch, traced, constraints)
    graph = found.graph if record.size_blind else _verified(model, runs, traced, found)
    return replace(
        graph, other_example=other if second is not None else None, unproven=first.unproven, output=output,
        selects=tracer.answers is not None,
    )  # fmt: skip


def _alternatives(model: nn.Module, labels: Mapping[str, Label], unreached: list[str]) -> list[LockRecord]:
    """Lock the layers that an unreached weight could replace: in the same module, with as many channels in and out.

    Code that chooses between them would find one of them pruned and the other not.
    """
    if not unreached:
        return []
    shapes = {name: (name.split(".")[:-2], parameter.shape[:2]) for name, parameter in named_parameters(model).items()}
    reached = shapes.keys() - unreached
    return [
        LockRecord(ids_in(labels[other]), f"{name}, which no run reached, could replace this layer", None)
        for name in unreached
        for other in sorted(reached)
        if shapes[other] == shapes[name] and other.endswith(".weight")
    ]


def _watch_larger(
    model: nn.Module, larger: Any, first: FirstRun, labels: Mapping[str, Label], next_id: int, inexact: bool,
    output: OutputOf,
) -> Tracer | None:  # fmt: skip
    """Trace a network at another image size; None if it does not accept that size, so that it can be wrong at none."""
    if larger is None:
        return None
    try:
        found = watch(model, larger, labels, next_id, inexact, output)
    except Broken:
        return None
    same = found.outputs[0].shape[:1] == first.tracer.outputs[0].shape[:1]
    return found if same else None  # a size became part of the batch


def _verified(model: nn.Module, runs: list[RunMode], traced: Traced, found: Assembled) -> ChannelGraph:
    """Lock channels, tie parts and guess size attributes until enough trial cuts succeed."""
    seed, passed, failed = 0, 0, 0
    blamed: dict[tuple[str, int], set[str]] = defaultdict(set)
    example, batch = found.graph.example, found.graph.batch
    while failed < MAX_TRIALS:
        trial = TrialCut(found.graph, found.partition, traced.axis_ids, traced.record, blamed)
        failure = trial_prune(model, runs, trial, seed)
        broken = failure.locks
        if not broken:
            seed, passed = seed + 1, passed + 1
            if passed >= _successes_needed(found):
                return found.graph
            continue
        passed = 0
        constraints, guessed = _guessed(model, found.constraints, failure)
        if not guessed:
            parts = parts_through(found, broken)
            if parts:  # perhaps they must lose the same offsets, not only the same number: try that before locking
                constraints = constraints.tie(parts)
            else:
                seed, failed = seed + 1, failed + 1
                constraints = constraints.lock(broken)
        found = assemble(model, example, batch, traced, constraints)
    everything = LockRecord(torch.arange(traced.ids), "trial cuts kept failing here", None)
    return assemble(model, example, batch, traced, found.constraints.lock([everything])).graph


def _guessed(model: nn.Module, constraints: Constraints, failure: Failure) -> tuple[Constraints, bool]:
    """Look for a channel count among the attributes of the module whose code failed.

    If Python failed between two operations, the last line that called one may be elsewhere: then all modules are
    searched that run the failing function.

    The flag is True if the next trial cut must check a new assumption.
    """
    record = constraints.record
    sites = [lock.site for lock in failure.locks if lock.site is not None]
    places = modules_at(record, sites)
    sized = {size.module for size in constraints.sizes}
    if not sized.isdisjoint(places):
        if constraints.shared.isdisjoint(places):
            return _shared(model, constraints, places)
        wrong = not sized.isdisjoint(site.module for site in sites)
        return (constraints.unshare(), True) if wrong else (constraints, False)
    found = guess_sizes(model, record, [place for place in places if place not in constraints.refuted])
    if not found and failure.function is not None:
        tried = constraints.refuted.union(size.module for size in constraints.sizes)
        places = modules_running(record, failure.function)
        found = guess_sizes(model, record, [place for place in places if place not in tried])
    return constraints.guess(found), bool(found)


def _shared(model: nn.Module, constraints: Constraints, places: list[str]) -> tuple[Constraints, bool]:
    """Assume that attributes of these modules count several axes each, or drop the assumption that they are counts."""
    component, locked = constraints.components.component, constraints.locks.mask
    guesses, parts = shared_sizes(
        model, constraints.record, places, lambda ids: bool((ids < 0).any() or locked[component[ids.numpy()]].any())
    )
    if not parts:
        return constraints.refute(places), False
    return constraints.share(places, guesses, parts), True


def parts_through(found: Assembled, broken: list[LockRecord]) -> list[EqualParts]:
    """List the equal-count constraints on the bundles of these ids; those from channel-moving operations first.

    A shuffle orders channels by their offsets, so the order is preserved only if all parts lose equal offsets.
    """
    component, owner = found.partition.component, found.partition.owner
    components = [component[lock.ids.numpy()] for lock in broken]
    touched = set(np.unique(owner[np.concatenate(components)]).tolist()) if components else set()
    bundles = {i for bundle in found.graph.bundles if set(bundle) & touched for i in bundle}
    inside = np.isin(owner, list(bundles))
    parts = [part for part in found.constraints.parts if inside[component[part.rows.numpy()]].any()]
    return [part for part in parts if not _from_grouped_convolution(part)] or parts


def _from_grouped_convolution(part: EqualParts) -> bool:
    """Whether the constraint comes from a grouped convolution, which does not move channels."""
    return operation(part.site.op).kind == "convolution"


def _may_reorder(found: Assembled) -> bool:
    """Whether free channels are split by more than grouped convolutions: such code may reorder them."""
    component, owner = found.partition.component, found.partition.owner
    return any(
        (owner[component[part.rows.numpy()]] >= 0).any()
        for part in found.constraints.parts
        if not _from_grouped_convolution(part)
    )


def _successes_needed(found: Assembled) -> int:
    """Return how many trial cuts in a row must succeed."""
    delicate = DELICATE_TRIALS if found.constraints.record.delicate or found.constraints.sizes else 1
    return max(delicate, trials_of_parts(found.graph)) if found.graph.groups and _may_reorder(found) else delicate
