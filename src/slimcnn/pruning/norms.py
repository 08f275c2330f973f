"""Filter norms of every layer: of all filters, and of those that a plan keeps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from slimcnn.graph import ChannelGraph
from slimcnn.pruning.plan import Plan
from slimcnn.pruning.scores import rows


@dataclass(frozen=True)
class FilterNorms:
    """The L2 norms of a layer's filters."""

    group: str
    """The channel group that the filters belong to."""
    layer: str
    original: tuple[float, ...]
    kept: tuple[float, ...]


def norms_kept(model: nn.Module, graph: ChannelGraph, plan: Plan) -> list[FilterNorms]:
    """List the norms of all filters and of the kept ones, for every layer that loses some filters but not all.

    >>> from slimcnn.models import build
    >>> from slimcnn.graph import trace
    >>> net = build("resnet8")
    >>> graph = trace(net, torch.zeros(1, 1, 8, 8))
    >>> plan = Plan(graph.fingerprint, {"layer1.0.conv1": (0, 1, 2)})
    >>> [(norms.layer, len(norms.original), len(norms.kept)) for norms in norms_kept(net, graph, plan)]
    [('layer1.0.conv1', 16, 13)]
    """
    tensors = dict(model.named_parameters())
    found = []
    for group in graph.groups:
        removed = plan.removed.get(group.name, ())
        if not 0 < len(removed) < group.channels:
            continue
        keep = torch.ones(group.channels, dtype=torch.bool)
        keep[list(removed)] = False
        for axis in group.filters:
            norms = rows(tensors[axis.parameter], axis).detach().norm(dim=1).cpu()
            layer = axis.parameter.rpartition(".")[0]
            found.append(FilterNorms(group.name, layer, tuple(norms.tolist()), tuple(norms[keep].tolist())))
    return found
