"""Compare the distributions of filter norms under several criteria."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from torch import nn

from slimcnn.graph import ChannelGraph
from slimcnn.pruning import Target, allocate, score
from slimcnn.pruning.norms import FilterNorms, norms_kept
from slimcnn.reporting.distances import ks_distance, w1_distance
from slimcnn.reporting.figures.choice import Choice, KeptNorms, LayerChoices
from slimcnn.reporting.formatting import plural
from slimcnn.reporting.sections import Section
from slimcnn.views.view import View, table


def norms(model: nn.Module, graph: ChannelGraph, criteria: Sequence[str], target: Target, title: str = "") -> View:
    """Compare, layer by layer, the L2 norms of all filters with those that each criterion keeps.

    KS is the Kolmogorov-Smirnov distance between both samples (0 to 1), W1 the Wasserstein distance as a share of the
    mean norm. Only layers that lose some, but not all, filters under every criterion are shown.

    Args:
        model: the network that `graph` was traced from; not changed.
        graph: its channel graph.
        criteria: names, with options as in fpdf:bins=4; only criteria that need no images.
        target: the pruning target.
        title: name of the network, for the heading.

    Data: a list of `layer`, `original` (all norms) and `choices` (`criterion`, `kept`, `ks`, `w1`).

    >>> import torch
    >>> from slimcnn.graph import trace
    >>> from slimcnn.models import build
    >>> net = build("resnet20")
    >>> graph = trace(net, torch.zeros(1, 3, 32, 32))
    >>> found = norms(net, graph, ["fpdf", "l2"], Target(pruning_ratio=0.5, residual="inner")).data[0]
    >>> found["layer"], [round(choice["ks"], 2) for choice in found["choices"]]
    ('layer1.0.conv1', [0.06, 0.5])
    """
    plans = {name: allocate(graph, score(model, graph, name), target) for name in criteria}
    found = {
        name: {(one.group, one.layer): one for one in norms_kept(model, graph, plan)} for name, plan in plans.items()
    }
    first, *others = found.values()
    layers = tuple(
        LayerChoices(
            layer=one.layer,
            original=one.original,
            choices=tuple(_choice(name, kept[place]) for name, kept in found.items()),
        )
        for place, one in first.items()
        if all(place in other for other in others)
    )
    return View(
        title=f"Filter norms of {title}" if title else "Filter norms",
        headline=f"Effect of each criterion on the distribution of filter norms: {target.describe()}",
        sections=(_means(layers), _every(layers)) if layers else (),
        data=[layer.model_dump(mode="json") for layer in layers],
    )


def _choice(criterion: str, found: FilterNorms) -> KeptNorms:
    mean = max(statistics.fmean(found.original), 1e-30)
    ks, w1 = ks_distance(found.kept, found.original), w1_distance(found.kept, found.original) / mean
    return KeptNorms(criterion=criterion, kept=found.kept, ks=ks, w1=w1)


def _means(layers: Sequence[LayerChoices]) -> Section:
    columns = zip(*(layer.choices for layer in layers), strict=True)
    means = [
        (column[0].criterion, statistics.fmean(one.ks for one in column), statistics.fmean(one.w1 for one in column))
        for column in columns
    ]
    title = f"Mean over {plural(len(layers), 'layer')}"
    return Section(title=title, blocks=(table({"criterion": "name", "KS": "share", "W1": "share"}, means),))


def _every(layers: tuple[LayerChoices, ...]) -> Section:
    rows = [(layer.layer, one.criterion, one.ks, one.w1) for layer in layers for one in layer.choices]
    listed = table(
        {"layer": "name", "criterion": "name", "KS": "share", "W1": "share"},
        rows,
        title="KS and W1 of every layer",
        folded=True,
    )
    return Section(title="Every layer", blocks=(Choice(layers=layers).block(), listed))
