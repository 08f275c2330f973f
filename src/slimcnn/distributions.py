"""What different criteria do to the distribution of the filter norms of every layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from slimcnn.graph import ChannelGraph
from slimcnn.pruning import Target, allocate, score
from slimcnn.pruning.scores import rows
from slimcnn.reporting.choices import Choice, LayerNorms
from slimcnn.reporting.distances import ks_distance, w1_distance


def norms_kept(model: nn.Module, graph: ChannelGraph, criteria: Sequence[str], target: Target) -> list[LayerNorms]:
    """Compare, layer by layer, the L2 norms of all filters with those that each criterion keeps.

    Layers that lose no channel are left out.

    >>> import slimcnn
    >>> net = slimcnn.build("resnet20")
    >>> graph = slimcnn.trace(net, torch.zeros(1, 3, 32, 32))
    >>> found = norms_kept(net, graph, ["fpdf", "l2"], Target(ratio=0.5, residual="inner"))
    >>> [(layer.layer, [round(choice.ks, 2) for choice in layer.choices]) for layer in found][0]
    ('layer1.0.conv1', [0.06, 0.5])
    """
    tensors = dict(model.named_parameters())
    plans = {name: allocate(graph, score(model, graph, name), target) for name in criteria}
    found = []
    for group in graph.groups:
        gone = {name: list(plan.removed.get(group.name, ())) for name, plan in plans.items()}
        for axis in group.filters if all(gone.values()) else ():
            norms = rows(tensors[axis.parameter], axis).norm(dim=1)
            choices = tuple(_choice(name, norms, channels) for name, channels in gone.items())
            found.append(LayerNorms(axis.parameter.rpartition(".")[0], tuple(norms.tolist()), choices))
    return found


def _choice(criterion: str, norms: torch.Tensor, gone: list[int]) -> Choice:
    keep = torch.ones(len(norms), dtype=torch.bool)
    keep[gone] = False
    kept, original = norms[keep].tolist(), norms.tolist()
    mean = max(float(norms.mean()), 1e-30)
    return Choice(criterion, tuple(kept), ks_distance(kept, original), w1_distance(kept, original) / mean)
