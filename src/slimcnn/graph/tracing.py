"""trace(): one run of the network on channel ids, trial cuts on a copy, and the graph that follows."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from slimcnn.graph.atoms import Atoms
from slimcnn.graph.building import GraphBuilder
from slimcnn.graph.channels import ChannelGraph
from slimcnn.graph.running import batch_size, check_batch, watch
from slimcnn.graph.tracer import LockRecord
from slimcnn.graph.trial import trial_cut

MAX_TRIALS = 30
"""Trial cuts before everything that is still open is locked; each trial locks at least one more group."""


def trace(model: nn.Module, example: Any) -> ChannelGraph:
    """Find out which channels of a network live and die together, and which must stay.

    The network runs once in eval mode with an id on every number (see `tracer.py`), and again with a trial cut
    on a copy: where the code has a size written into it, the trial breaks or puts channels in the wrong
    place, and the groups that pass there are locked with the line of code as the reason.

    Args:
        model: any `nn.Module`; it is copied, never changed.
        example: one input batch (n, c, h, w), or a tuple or dict of inputs.  Sizes are traced as they are here.

    Raises:
        ModelError: the network does not accept the example, or its output's first axis is not the batch.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    >>> graph = trace(net, torch.zeros(1, 3, 8, 8))
    >>> [(group.name, group.channels) for group in graph.groups]
    [('0', 8)]
    >>> graph.locked[0].layer, graph.locked[0].reason
    ('3', "the network's output")
    """
    model, example = copy.deepcopy(model).cpu().eval(), tree_map_only(Tensor, lambda t: t.detach().cpu(), example)
    atoms = Atoms.of(model)
    batch = batch_size(example)
    ledger, next_id = watch(model, example, atoms.labels(model), len(atoms))
    check_batch(model, example, batch)
    builder = GraphBuilder(atoms, ledger, next_id)
    for trial in range(MAX_TRIALS):
        graph = builder.graph(model, example, batch)
        broken = trial_cut(model, example, graph, atoms, builder, seed=trial)
        if not broken:
            return graph
        builder.lock(broken)
    builder.lock([LockRecord(torch.arange(next_id), "trial cuts went on failing here", None)])
    return builder.graph(model, example, batch)
