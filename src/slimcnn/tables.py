"""What the command line prints: rich tables for people, plain data for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from slimcnn.errors import UnknownName
from slimcnn.graph import ChannelGraph
from slimcnn.measuring import Latency, Measurement
from slimcnn.pruning import Plan
from slimcnn.rewriting import Rewritten
from slimcnn.zoo import Compared


def describe_graph(graph: ChannelGraph) -> dict[str, Any]:
    """Give groups, locks and costs as plain data."""
    groups = [
        {
            "name": g.name, "channels": g.channels, "parts": len(g.parts), "residual": g.residual, "branch": g.branch,
            "inexact": g.inexact, "with": [graph.groups[i].name for i in graph.companions[n] if i != n],
            "layers": list(g.layers),
        }
        for n, g in enumerate(graph.groups)
    ]  # fmt: skip
    locked = [asdict(lock) for lock in graph.locked]
    return {"macs": graph.macs(), "params": graph.params(), "groups": groups, "locked": locked}


def graph_tables(graph: ChannelGraph) -> list[Table]:
    """Show groups, and what is locked and why."""
    free = Table("group", "channels", "layers that change", title="Channels that can go", title_justify="left")
    for number, group in enumerate(graph.groups):
        notes = ["between residual blocks"] if group.residual else []
        notes += [f"as many of each of {len(group.parts)} parts"] if len(group.parts) > 1 else []
        companions = [graph.groups[i].name for i in graph.companions[number] if i != number]
        notes += [f"as many as of {', '.join(companions)}"] if companions else []
        notes += ["inexact: a norm over them"] if group.inexact else []
        free.add_row(group.name, str(group.channels), ", ".join(group.layers) + "".join(f"  ({n})" for n in notes))
    locked = Table("layer", "locked", "of", "why", "where", title="Channels that must stay", title_justify="left")
    for lock in graph.locked:
        locked.add_row(lock.layer, str(lock.channels), str(lock.of), lock.reason, lock.where)
    return [free, locked]


def describe_plan(graph: ChannelGraph, plan: Plan) -> dict[str, Any]:
    """Give a plan with its costs as plain data."""
    counts = plan.counts(graph)
    groups = [
        {"group": g.name, "channels": g.channels, "kept": g.channels - int(n)}
        for g, n in zip(graph.groups, counts, strict=True)
    ]
    return {
        "criterion": plan.criterion, "target": plan.target,
        "macs": {"before": graph.macs(), "after": graph.macs(counts)},
        "params": {"before": graph.params(), "after": graph.params(counts)},
        "groups": groups, "notes": list(plan.notes),
    }  # fmt: skip


def plan_tables(graph: ChannelGraph, plan: Plan) -> list[Table]:
    """Show what a plan removes and saves."""
    title = f"Plan: {plan.criterion}, {plan.target}"
    table = Table("group", "channels", "kept", "removed", title=title, title_justify="left")
    for group in graph.groups:
        removed = plan.removed.get(group.name, ())
        shown = ", ".join(map(str, removed[:12])) + (" ..." if len(removed) > 12 else "")
        table.add_row(group.name, str(group.channels), str(group.channels - len(removed)), shown)
    counts = plan.counts(graph)
    costs = Table("", "before", "after", "stays")
    for name, before, after in (
        ("MACs", graph.macs(), graph.macs(counts)),
        ("params", graph.params(), graph.params(counts)),
    ):
        costs.add_row(name, f"{before:,}", f"{after:,}", f"{after / max(before, 1):.3f}")
    return [table, costs]


def describe_measurement(found: Measurement, timed: Latency, layers: bool) -> dict[str, Any]:
    """Give a measurement as plain data."""
    data = asdict(found) | {"latency": asdict(timed)}
    if not layers:
        del data["layers"]
    return data


def measurement_tables(found: Measurement, timed: Latency, layers: bool) -> list[Table]:
    """Show a measurement, with every layer if asked for."""
    table = Table("", "", show_header=False)
    table.add_row("params", f"{found.params:,}")
    table.add_row("MACs (one image)", f"{found.macs:,}")
    table.add_row("bytes of weights", f"{found.bytes:,}")
    table.add_row(
        "latency",
        f"{timed.median_ms:.2f} ms (quartiles {timed.lower_ms:.2f} to {timed.upper_ms:.2f}), batch {timed.batch}, "
        f"{timed.threads} threads, {timed.runtime}, {timed.device}, n = {timed.n}",
    )
    table.add_row("counted as 0 MACs", ", ".join(found.not_counted))
    if not layers:
        return [table]
    every = Table("layer", "type", "output", "params", "MACs")
    for layer in found.layers:
        shape = "x".join(map(str, (layer.output or ())[1:]))
        every.add_row(layer.name, layer.kind, shape, f"{layer.params:,}", f"{layer.macs:,}")
    return [every, table]


def rewrite_tables(found: Rewritten, before: Measurement, after: Measurement) -> list[Table]:
    """Show what a rewrite did to every layer, or why it left it, and what it saves."""
    table = Table("layer", "what became of it", title="Layers", title_justify="left")
    for change in found.changes:
        table.add_row(change.layer, change.what or f"left: {change.why_left}")
    costs = Table("", "before", "after", "stays")
    for name, old, new in (("MACs", before.macs, after.macs), ("params", before.params, after.params)):
        costs.add_row(name, f"{old:,}", f"{new:,}", f"{new / max(old, 1):.3f}")
    return [table, costs]


def describe_zoo(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """Give a comparison of compact networks as plain data."""
    return [
        {
            "network": one.published.network, "arguments": dict(one.published.arguments), "family": one.family,
            "params": one.params, "macs": one.macs,
            "published": {"params": one.published.params, "macs": one.published.macs, "top1": one.published.top1,
                          "source": one.published.source},
            "note": one.published.note,
            "latency": {runtime: asdict(time) for runtime, time in one.latencies.items()},
        }
        for one in compared
    ]  # fmt: skip


def zoo_tables(compared: Sequence[Compared]) -> list[Table]:
    """Show a comparison of compact networks: first what is measured here, then what was printed; 80 columns suffice."""
    here = Table(
        "network",
        title="Counted (in millions) and timed (in ms) here; top-1 (in %) as published",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("params", "MACs", "top-1"):
        here.add_column(name, justify="right")
    runtimes = list(compared[0].latencies) if compared else []
    for runtime in runtimes:
        here.add_column(compared[0].latencies[runtime].runtime, justify="right")
    said = Table("network", "family", "params", "MACs", "source of top-1",
                 title="As published, ImageNet", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)  # fmt: skip
    for table in (here, said):
        table.columns[0].no_wrap = True
    for one in compared:
        published = one.published
        times = [f"{one.latencies[runtime].median_ms:.1f}" for runtime in runtimes]
        counts = f"{one.params / 1e6:.2f}", f"{one.macs / 1e6:.1f}", f"{published.top1:g}"
        here.add_row(published.title, *counts, *times)
        said.add_row(published.title, one.family, published.params, published.macs or "–", published.source)
    return [here, said]


def describe_names(kind: str) -> dict[str, list[dict[str, str]]]:
    """Give registered names with promises and sources, of one kind or all."""
    from slimcnn.datasets import datasets
    from slimcnn.distillation import losses
    from slimcnn.models import networks
    from slimcnn.pruning import criteria
    from slimcnn.rewriting import rewrites

    registries: dict[str, Any] = {
        "networks": networks, "criteria": criteria, "rewrites": rewrites, "losses": losses,
        "datasets": datasets,
    }  # fmt: skip
    if kind != "all" and kind not in registries:
        raise UnknownName("kind", kind, registries)
    chosen = registries if kind == "all" else {kind: registries[kind]}
    return {
        name: [{"name": e.name, "promise": e.summary, "source": e.source} for e in registry]
        for name, registry in chosen.items()
    }


def names_tables(kind: str) -> list[Table]:
    """Show registered names with promises and sources."""
    tables = []
    for title, entries in describe_names(kind).items():
        table = Table("name", "", "source", title=title, title_justify="left")
        for entry in entries:
            table.add_row(entry["name"], entry["promise"], entry["source"])
        tables.append(table)
    return tables
