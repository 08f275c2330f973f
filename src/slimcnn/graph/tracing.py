"""trace(): one run of the network on channel ids, trial cuts on a copy, and the graph that follows."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from slimcnn.graph.assembly import Assembled, assemble
from slimcnn.graph.axis_ids import AxisIds
from slimcnn.graph.channels import ChannelGraph
from slimcnn.graph.copying import duplicate
from slimcnn.graph.execution import Broken, batch_size, watch, watch_twice
from slimcnn.graph.fast.collection import collection_paused
from slimcnn.graph.fast.module_tree import named_tensors
from slimcnn.graph.grouping import Traced
from slimcnn.graph.operations import operation
from slimcnn.graph.partition import Constraints
from slimcnn.graph.size_attributes import guess_sizes, modules_at
from slimcnn.graph.trace_record import EqualParts, LockRecord
from slimcnn.graph.trial_channels import trials_of_parts
from slimcnn.graph.trial_prune import RunMode, TrialCut, trial_prune

MAX_TRIALS = 30
"""Trial cuts that may fail before everything that is still open is locked; each locks at least one more group."""


DELICATE_TRIALS = 4
"""Trial cuts that must succeed where the code picks channels: `x[:, : c // 4]` may fit one cut by luck."""


@collection_paused()
def trace(model: nn.Module, example: Any, inexact: bool = False) -> ChannelGraph:
    """Find out which channels of a network live and die together, and which must stay.

    The network runs once in eval mode with an id on every number (see `tracer.py`), and again with a trial cut
    on a copy: where the code has a size written into it, the trial breaks or puts channels in the wrong
    place, and the groups that pass there are locked with the line of code as the reason. A network with
    tensors that only a run in training mode reads (auxiliary heads) is watched in that mode too.

    Args:
        model: any `nn.Module`; it is copied, never changed.
        example: one input batch (n, c, h, w), or a tuple or dict of inputs. Sizes are traced as they are here.
        inexact: let channels go that a layer, group or RMS norm normalizes together. The statistics of those that
            stay change then, so that the pruned network cannot equal the masked one; all else is still proven.

    Raises:
        ModelError: the network cannot be copied, does not accept the example, or its output's first axis is not
            the batch.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    >>> graph = trace(net, torch.zeros(1, 3, 8, 8))
    >>> [(group.name, group.channels) for group in graph.groups]
    [('0', 8)]
    >>> graph.locked[0].layer, graph.locked[0].reason
    ('3', "the network's output")
    """
    batch = batch_size(example)
    model, example = duplicate(model).eval(), tree_map_only(Tensor, lambda t: t.detach().cpu(), example)
    if any(tensor.device.type != "cpu" for _, tensor in named_tensors(model)):
        model = model.cpu()
    axis_ids = AxisIds.of(model)
    labels = axis_ids.labels(model)
    tracer, twice = watch_twice(model, example, batch, labels, len(axis_ids), inexact)
    record, next_id = tracer.record, tracer.next_id
    runs = [RunMode(twice, training=False, shape_only=tracer.shape_only, inexact=inexact)]
    if any(t.is_floating_point() and t.dim() and name in tracer.unread for name, t in named_tensors(model)):
        with suppress(Broken):  # a network that cannot train on this example has nothing to keep together there
            training = watch(model.train(), twice, labels, next_id, inexact)
            runs.append(RunMode(twice, training=True, shape_only=training.shape_only, inexact=inexact))
            record, next_id = record.with_training(training.record), training.next_id
    model.eval()
    traced = Traced.of(model, axis_ids, record, next_id)
    found = assemble(model, example, batch, traced, Constraints.of(record, next_id))
    return found.graph if record.size_blind else _proven(model, runs, traced, found)


def _proven(model: nn.Module, runs: list[RunMode], traced: Traced, found: Assembled) -> ChannelGraph:
    """Lock, tie and guess until trial cuts go through."""
    seed, passed, failed = 0, 0, 0
    blamed: dict[tuple[str, int], set[str]] = defaultdict(set)
    example, batch = found.graph.example, found.graph.batch
    while failed < MAX_TRIALS:
        trial = TrialCut(found.graph, found.partition, traced.axis_ids, traced.record, blamed)
        broken = trial_prune(model, runs, trial, seed)
        if not broken:
            seed, passed = seed + 1, passed + 1
            if passed >= _enough(found):
                return found.graph
            continue
        passed = 0
        constraints, guessed = _guessed(model, found.constraints, broken)
        if not guessed:
            parts = parts_through(found, broken)
            if parts:  # perhaps they must lose not only equally many channels but the same: try that before locking
                constraints = constraints.tie(parts)
            else:
                seed, failed = seed + 1, failed + 1
                constraints = constraints.lock(broken)
        found = assemble(model, example, batch, traced, constraints)
    everything = LockRecord(torch.arange(traced.ids), "trial cuts went on failing here", None)
    return assemble(model, example, batch, traced, found.constraints.lock([everything])).graph


def _guessed(model: nn.Module, constraints: Constraints, broken: list[LockRecord]) -> tuple[Constraints, bool]:
    """Where code failed with a number of channels, look for that number among the attributes of its module.

    False if there is none, or if it was changed already and did not help.
    """
    record = constraints.record
    places = modules_at(record, [lock.site for lock in broken if lock.site is not None])
    if any(size.module in places for size in constraints.sizes):
        return constraints.refute(places), False
    found = guess_sizes(model, record, [place for place in places if place not in constraints.refuted])
    return constraints.guess(found), bool(found)


def parts_through(found: Assembled, broken: list[LockRecord]) -> list[EqualParts]:
    """List what parts the bundles of these ids and leaves them a choice: operations that move channels first.

    After a shuffle, channels arrive in the order of their offsets; only equal offsets arrive as before.
    """
    component, owner = found.partition.component, found.partition.owner
    components = [component[lock.ids.numpy()] for lock in broken]
    touched = set(np.unique(owner[np.concatenate(components)]).tolist()) if components else set()
    bundles = {i for bundle in found.graph.bundles if set(bundle) & touched for i in bundle}
    inside = np.isin(owner, list(bundles))
    parts = [part for part in found.constraints.parts if inside[component[part.rows.numpy()]].any()]
    return [part for part in parts if not _by_groups(part)] or parts


def _by_groups(part: EqualParts) -> bool:
    """Ask whether a grouped convolution parts the channels: it leaves them where they are."""
    return operation(part.site.op).kind == "convolution"


def _moves_parts(found: Assembled) -> bool:
    """Ask whether code, and not only grouped convolutions, parts channels that may still go: it may reorder them."""
    component, owner = found.partition.component, found.partition.owner
    return any(
        (owner[component[part.rows.numpy()]] >= 0).any() for part in found.constraints.parts if not _by_groups(part)
    )


def _enough(found: Assembled) -> int:
    """Number the trial cuts in a row that must go through."""
    delicate = DELICATE_TRIALS if found.constraints.record.delicate or found.constraints.sizes else 1
    return max(delicate, trials_of_parts(found.graph)) if found.graph.groups and _moves_parts(found) else delicate
