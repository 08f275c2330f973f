"""trace(): one run of the network on channel ids, trial cuts on a copy, and the graph that follows."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from slimcnn.graph.atoms import Atoms
from slimcnn.graph.building import GraphBuilder
from slimcnn.graph.channels import ChannelGraph
from slimcnn.graph.collecting import uncollected
from slimcnn.graph.copying import duplicate
from slimcnn.graph.execution import Broken, batch_size, watch, watch_twice
from slimcnn.graph.ledger import Ledger, LockRecord
from slimcnn.graph.trial import RunMode, trial_cut, trials_of_parts
from slimcnn.graph.walking import named_tensors

MAX_TRIALS = 30
"""Trial cuts that may fail before everything that is still open is locked; each locks at least one more group."""


DELICATE_TRIALS = 4
"""Trial cuts that must succeed where the code picks channels: `x[:, : c // 4]` may fit one cut by luck."""


@uncollected()
def trace(model: nn.Module, example: Any, inexact: bool = False) -> ChannelGraph:
    """Find out which channels of a network live and die together, and which must stay.

    The network runs once in eval mode with an id on every number (see `tracer.py`), and again with a trial cut
    on a copy: where the code has a size written into it, the trial breaks or puts channels in the wrong
    place, and the groups that pass there are locked with the line of code as the reason.  A network with
    tensors that only a run in training mode reads (auxiliary heads) is watched in that mode too.

    Args:
        model: any `nn.Module`; it is copied, never changed.
        example: one input batch (n, c, h, w), or a tuple or dict of inputs.  Sizes are traced as they are here.
        inexact: let channels go that a layer, group or RMS norm normalises together.  The statistics of those that
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
    atoms = Atoms.of(model)
    labels = atoms.labels(model)
    tracer, twice = watch_twice(model, example, batch, labels, len(atoms), inexact)
    ledger, next_id = tracer.ledger, tracer.next_id
    runs = [RunMode(twice, training=False, hollow=tracer.hollow, inexact=inexact)]
    if any(t.is_floating_point() and t.dim() and name in tracer.unread for name, t in named_tensors(model)):
        with suppress(Broken):  # what cannot train with this example has nothing to keep together
            training = watch(model.train(), twice, labels, next_id, inexact)
            runs.append(RunMode(twice, training=True, hollow=training.hollow, inexact=inexact))
            _add(ledger, training.ledger)
            next_id = training.next_id
    model.eval()
    builder = GraphBuilder(atoms, ledger, next_id)
    graph = builder.graph(model, example, batch)
    return graph if ledger.cut_blind else _proven(graph, model, runs, builder)


def _proven(graph: ChannelGraph, model: nn.Module, runs: list[RunMode], builder: GraphBuilder) -> ChannelGraph:
    """Lock, tie and guess until trial cuts go through."""
    seed, passed, failed = 0, 0, 0
    while failed < MAX_TRIALS:
        broken = trial_cut(model, runs, graph, builder.atoms, builder, seed)
        if not broken:
            seed, passed = seed + 1, passed + 1
            if passed >= _enough(graph, builder):
                return graph
            continue
        passed = 0
        if not builder.guess(model, broken):
            parts = builder.parts_through(broken)
            if parts:  # perhaps they must lose not only equally many channels but the same: try that before locking
                builder.tie_parts(parts)
            else:
                seed, failed = seed + 1, failed + 1
                builder.lock(broken)
        graph = builder.graph(model, graph.example, graph.batch)
    builder.lock([LockRecord(torch.arange(len(builder.component)), "trial cuts went on failing here", None)])
    return builder.graph(model, graph.example, graph.batch)


def _enough(graph: ChannelGraph, builder: GraphBuilder) -> int:
    """Number the trial cuts in a row that must go through."""
    delicate = DELICATE_TRIALS if builder.ledger.delicate or builder.guesses else 1
    return max(delicate, trials_of_parts(graph)) if graph.groups and builder.moves_parts else delicate


def _add(ledger: Ledger, training: Ledger) -> None:
    """Add what a run in training mode taught; what only ran there costs nothing and stays as it is."""
    known = {record.module for record in ledger.contractions}
    for record in training.contractions:
        if record.module not in known:
            ledger.contractions.append(replace(record, macs=0, training=True))
    ledger.equal += training.equal
    ledger.locks += training.locks
    ledger.parts += training.parts
    ledger.pieces += training.pieces
    ledger.inexact += training.inexact
    ledger.parted += training.parted
    ledger.numbers += training.numbers
    ledger.pads += training.pads
    ledger.moves += training.moves
    ledger.squeezed += training.squeezed
    ledger.met += training.met
    ledger.delicate |= training.delicate
    ledger.cut_blind &= training.cut_blind
    ledger.passed += training.passed
