"""Report sections of a prune step: widths, filter norms, scales and relations, search results."""

from __future__ import annotations

from torch import nn

from slimcnn.graph import ChannelGraph
from slimcnn.graph.channels import layer_of
from slimcnn.graph.fast.module_tree import named_tensors
from slimcnn.pruning import Plan
from slimcnn.pruning.norms import norms_kept
from slimcnn.pruning.scores import rows
from slimcnn.reporting import ks_distance
from slimcnn.reporting.figures.norms import LayerNorms, Norms
from slimcnn.reporting.figures.pareto import Pareto, Trial
from slimcnn.reporting.figures.scales import LayerScales, Scales
from slimcnn.reporting.figures.widths import Group, Widths
from slimcnn.reporting.outcome import MetricName
from slimcnn.reporting.sections import Column, Section, Table, Text
from slimcnn.searching import Found, Search


def about_cut(whole: nn.Module, graph: ChannelGraph, plan: Plan) -> list[Section]:
    """Report the removed channels, and the filter norms before and after."""
    notes = tuple(Text(text=note, tone="note") for note in plan.notes)
    widths = _widths(graph, plan)
    return [widths.model_copy(update={"blocks": (*widths.blocks, *notes)}), _norms(whole, graph, plan)]


def _widths(graph: ChannelGraph, plan: Plan) -> Section:
    lost = {group.name: len(plan.removed.get(group.name, ())) for group in graph.groups}
    if not lost:
        return Section(title="Widths", blocks=(Text(text="This network has no channels that can be pruned."),))
    before = sum(group.channels for group in graph.groups)
    after = before - sum(lost.values())
    said = (
        f"Criterion {plan.criterion or 'by hand'}, target {plan.target or 'a plan'}: {before:,} channels in "
        f"{len(lost)} groups before, {after:,} after."
    )
    figure = Widths(
        groups=tuple(Group(name=g.name, channels=g.channels, kept=g.channels - lost[g.name]) for g in graph.groups)
    )
    columns = (
        Column(title="group", format="name"),
        Column(title="before", format="exact"),
        Column(title="after", format="exact"),
        Column(title="layers"),
    )
    table = Table(
        columns=columns,
        rows=tuple((g.name, g.channels, g.channels - lost[g.name], ", ".join(g.layers)) for g in graph.groups),
        title="Table of the widths, with the layers of every group",
        folded=True,
    )
    return Section(title="Widths", blocks=(Text(text=said), figure.block(), table))


def _norms(model: nn.Module, graph: ChannelGraph, plan: Plan) -> Section:
    """Compare the L2 norms of all filters with those of the kept ones, for every layer that lost some but not all."""
    found = [
        LayerNorms(layer=one.layer, original=one.original, kept=one.kept, ks=ks_distance(one.original, one.kept))
        for one in norms_kept(model, graph, plan)
    ]
    if not found:
        return Section(title="Filter norms", blocks=(Text(text="No layer lost only some of its filters."),))
    return Section(title="Filter norms", blocks=(Norms(layers=tuple(found)).block(),))


def about_scales(model: nn.Module, graph: ChannelGraph, plan: Plan) -> Section:
    """Show, for every channel group, the scales of its first batch norm, its relations and the kept channels."""
    found = []
    tensors = dict(named_tensors(model))
    for index, group in enumerate(graph.groups):
        if not group.norms:
            continue
        norm = group.norms[0]
        gone = set(plan.by_index(graph).get(index, ()))
        relation = next((axis for axis in group.axes if axis.parameter == f"{layer_of(norm.parameter)}.sr"), None)
        found.append(
            LayerScales(
                layer=layer_of(norm.parameter),
                gamma=tuple(rows(tensors[norm.parameter], norm)[:, 0].abs().tolist()),
                sr=tuple(rows(tensors[relation.parameter], relation)[:, 0].tolist()) if relation is not None else (),
                kept=tuple(channel not in gone for channel in range(group.channels)),
            )
        )
    lead = "|γ| of every prunable channel, its relation sr to the other channels of its layer, and |γ| against sr."
    figure = Scales(criterion=plan.criterion, layers=tuple(found)).block()
    return Section(title="Scales and relations", blocks=(Text(text=lead), figure))


def about_search(found: Found, asked: Search, metric: MetricName) -> Section:
    """Report the evaluated points of a search and its best network."""
    best = found.best
    drop = f"{asked.max_drop:g} {metric.change_unit}".rstrip()
    loses = (
        f"loses at most {drop} of validation {metric.name}"
        if metric.higher_is_better
        else f"raises validation {metric.name} by at most {drop}"
    )
    said = ", ".join(f"{name} {value}" for name, value in best.point.items())
    lead = (
        f"The smallest network that {loses} without training: {said} keeps {100 * (best.macs or 0):.1f} % of the MACs "
        f"and reaches {metric.written(best.metric or 0)} of {metric.written(found.base)}."
    )
    tried = tuple(
        Trial(point=one.point, macs=one.macs, metric=one.metric) for one in found.outcomes if one.macs is not None
    )
    figure = Pareto(
        tried=tried,
        best=Trial(point=best.point, macs=best.macs or 0.0, metric=best.metric),
        base=found.base,
        drop=asked.max_drop,
        metric=metric,
    )
    return Section(title="Search results", blocks=(Text(text=lead), figure.block()))
