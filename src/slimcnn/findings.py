"""From a finished run to its report: measure both networks and put the numbers together."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from slimcnn.closeness import TEMPERATURE, closeness_of
from slimcnn.graph import ChannelGraph
from slimcnn.graph.channels import layer_of
from slimcnn.graph.walking import named_tensors
from slimcnn.layers.reusing import FeatureReuse, units_in
from slimcnn.measuring import Latency, Measurement, environment, file_bytes, latency, measure
from slimcnn.pruning import Plan, Verdict
from slimcnn.pruning.scores import rows
from slimcnn.recipes import Recipe
from slimcnn.reporting import ks_distance
from slimcnn.reporting.contents import (
    Closeness,
    Curve,
    Group,
    Law,
    LayerChange,
    LockedChannels,
    Norms,
    Numbers,
    Report,
    ReuseUnit,
    Rewrite,
    Scales,
    Searched,
    Stage,
    Timing,
    Tried,
)  # fmt: skip
from slimcnn.rewriting import Rewritten
from slimcnn.runs import COMPRESSED, ORIGINAL, RECIPE, RunFolder
from slimcnn.training import evaluate

if TYPE_CHECKING:
    from slimcnn.start import Start


def assemble(
    recipe: Recipe, start: Start, small: nn.Module, about: dict[str, Any], stages: list[Stage], curves: list[Curve],
    folder: RunFolder, command: str,
) -> Report:  # fmt: skip
    """Measure the original and the compressed network side by side, on the test images too.

    `about` is what `about_cut` or `about_rewrite` say.
    """
    example = start.example
    sizes = {"before": measure(start.model, example), "after": measure(small, example)}
    times = latency({"before": start.model, "after": small}, example, seconds=recipe.latency_seconds)
    top1 = _test_top1(start, small, folder)
    files = {"before": file_bytes(folder / ORIGINAL), "after": file_bytes(folder / COMPRESSED)}
    numbers = {
        when: Numbers(
            top1=top1[when], params=sizes[when].params, macs=sizes[when].macs, bytes=files[when],
            latency_ms=times[when].median_ms,
        )
        for when in ("before", "after")
    }  # fmt: skip
    name = recipe.network.model or getattr(start.model, "architecture", {}).get("model", "network")
    return Report(
        title=f"{name} on {start.dataset.name}",
        command=command or f"slimcnn run {shlex.quote(str(folder / RECIPE))}",
        network=name,
        dataset=start.dataset.name,
        images={part: len(getattr(start.dataset, part)) for part in ("train", "validation", "test")},
        normalisation=start.normalisation,
        recovery=_recovery(recipe, start, stages),
        before=numbers["before"],
        after=numbers["after"],
        stages=tuple(stages),
        layers=_layers(sizes["before"], sizes["after"], _places(small)),
        curves=tuple(curves),
        sparse=tuple(Curve(**epoch) for epoch in folder.facts.get("sparsified", [])),
        search=_searched(recipe, folder),
        timing=_timing(times),
        not_counted=sizes["after"].not_counted,
        notes=(*start.notes, *about.pop("notes", ())),
        environment=environment(),
        recipe=recipe.to_toml(),
        checkpoint=COMPRESSED,
        seconds=_seconds(folder, stages),
        **about,
    )


def about_cut(
    start: Start, graph: ChannelGraph, plan: Plan, verdict: Verdict, related: tuple[Scales, ...]
) -> dict[str, Any]:
    """Say of a cut what the report shows of it alone."""
    return {
        "criterion": plan.criterion,
        "target": plan.target,
        "verdict": Law(equal=verdict.equal, error=verdict.error, text=str(verdict)),
        "locked": tuple(LockedChannels(**_fields(lock)) for lock in graph.locked),
        "groups": _groups(graph, plan),
        "norms": _norms(start.model, graph, plan),
        "scales": related,
        "notes": plan.notes,
    }


def about_rewrite(rule: str, found: Rewritten) -> dict[str, Any]:
    """Say of a rewrite what the report shows of it alone."""
    units = [
        ReuseUnit(
            place=unit.place, reads=unit.reads, makes=unit.makes, reused=unit.reused, dense=unit.dense,
            residual=unit.residual,
        )
        for unit in units_in(found.model)
    ]  # fmt: skip
    changes = [Rewrite(layer=one.layer, what=one.what, why_left=one.why_left) for one in found.changes]
    return {"target": rule, "verdict": None, "rewrites": tuple(changes), "units": tuple(units)}


def about_lesson(objective: str, start: Start, student: nn.Module) -> dict[str, Any]:
    """Say of a student what the report shows of it alone."""
    images = start.dataset.validation
    data = start.dataset
    found = [closeness_of(network, images, data.normalisation, data.classes) for network in (start.model, student)]
    closeness = Closeness(
        classes=start.dataset.classes, teacher=found[0], student=found[1], temperature=TEMPERATURE,
        images=len(images),
    )  # fmt: skip
    return {"target": objective, "verdict": None, "closeness": closeness}


def _places(small: nn.Module) -> dict[str, str]:
    """Name, for layers that went into a unit of feature reuse, where they are now."""
    found: dict[str, str] = {}
    for name, module in small.named_modules():
        if isinstance(module, FeatureReuse):
            for number, (conv, norm) in enumerate(module.unit.layers):
                found |= {conv: f"{name}.steps.{number}.conv"} | ({norm: f"{name}.steps.{number}.norm"} if norm else {})
    return found


def scales_and_relations(model: nn.Module, graph: ChannelGraph, plan: Plan) -> tuple[Scales, ...]:
    """List, for every channel group, the scales of its first batch norm, its relations, and which channels stay."""
    found = []
    tensors = dict(named_tensors(model))
    for index, group in enumerate(graph.groups):
        if not group.norms:
            continue
        norm = group.norms[0]
        gone = set(plan.by_index(graph).get(index, ()))
        relation = next((axis for axis in group.axes if axis.parameter == f"{layer_of(norm.parameter)}.sr"), None)
        sr = rows(tensors[relation.parameter], relation)[:, 0].tolist() if relation is not None else []
        found.append(
            Scales(
                layer=layer_of(norm.parameter),
                gamma=tuple(rows(tensors[norm.parameter], norm)[:, 0].abs().tolist()),
                sr=tuple(sr),
                kept=tuple(channel not in gone for channel in range(group.channels)),
            )
        )
    return tuple(found)


def _searched(recipe: Recipe, folder: RunFolder) -> Searched | None:
    facts = folder.facts.get("search")
    if not facts or recipe.prune is None or recipe.prune.search is None:
        return None
    tried = [Tried(point=one["point"], macs=one["macs"], top1=one["top1"]) for one in facts["tried"] if one["macs"]]
    best = Tried(point=facts["best"]["point"], macs=facts["best"]["macs"], top1=facts["best"]["top1"])
    return Searched(tried=tuple(tried), best=best, base=facts["base"], drop=recipe.prune.search.drop)


def _recovery(recipe: Recipe, start: Start, stages: list[Stage]) -> str:
    """Say in a phrase how the accuracy was won back."""
    recover = recipe.recover
    names = [stage.name for stage in stages]
    images = min(recover.images, len(start.dataset.train))
    soft = recipe.prune.soft if recipe.prune else None
    sparse = recipe.sparsify
    reused = recipe.rewrite is not None and recipe.rewrite.init == "reuse"
    done = [f"begun from the original's features on {images:,} images"] if reused else []
    done += [f"{sparse.training.epochs} epochs of sparse training before the cut"] if sparse else []
    done += [f"{soft.epochs} epochs of soft training before the cut"] if soft else []
    if "constants folded" in names:
        done.append("constants of removed channels folded into the next layers")
    if "recalibrated" in names:
        done.append(f"batch norm recalibrated on {images:,} images")
    if "re-solved" in names:
        done.append(f"layers re-solved by least squares on {images:,} images")
    if "re-solved without images" in names:
        done.append("layers re-solved by least squares on images made from batch-norm statistics")
    if recipe.distill is not None:
        done.append(
            f"{recipe.distill.training.epochs} epochs of distillation from {recipe.network.model or 'the teacher'}"
        )
    if "fine-tuned" in names:
        done.append(f"{recover.training.epochs} epochs of fine-tuning")
    if "distilled" in names:
        how = f"temperature {recover.temperature:g}, alpha {recover.alpha:g}"
        done.append(f"{recover.training.epochs} epochs of distillation from the original ({how})")
    return ", then ".join(done) or "none"


def _seconds(folder: RunFolder, stages: list[Stage]) -> float:
    """Add up everything that took time, without interruptions."""
    steps: dict[str, float] = folder.facts.get("seconds", {})
    trained: list[dict[str, float]] = [*folder.facts.get("pretrained", []), *folder.facts.get("sparsified", [])]
    return sum(steps.values()) + sum(epoch["seconds"] for epoch in trained) + sum(stage.seconds for stage in stages)


def _fields(lock: Any) -> dict[str, Any]:
    return {name: getattr(lock, name) for name in ("layer", "channels", "of", "reason", "where")}


def _test_top1(start: Start, small: nn.Module, folder: RunFolder) -> dict[str, float]:
    if "test" not in folder.facts:
        data = start.dataset
        found = {
            "before": evaluate(start.model, data.test, data.normalisation).top1,
            "after": evaluate(small, data.test, data.normalisation).top1,
        }
        folder.remember(test=found)
    top1: dict[str, float] = folder.facts["test"]
    return top1


def _groups(graph: ChannelGraph, plan: Plan) -> tuple[Group, ...]:
    return tuple(
        Group(
            name=group.name, channels=group.channels, kept=group.channels - len(plan.removed.get(group.name, ())),
            layers=group.layers,
        )
        for group in graph.groups
    )  # fmt: skip


def _layers(before: Measurement, after: Measurement, places: dict[str, str]) -> tuple[LayerChange, ...]:
    new = {layer.name: layer for layer in after.layers}
    new |= {old: new[name] for old, name in places.items() if name in new}
    return tuple(
        LayerChange(
            name=old.name, kind=old.kind,
            shape_before=(old.output or ())[1:], shape_after=(new[old.name].output or ())[1:],
            params_before=old.params, params_after=new[old.name].params,
            macs_before=old.macs, macs_after=new[old.name].macs,
        )
        for old in before.layers
        if old.name in new
    )  # fmt: skip


def _norms(model: nn.Module, graph: ChannelGraph, plan: Plan) -> tuple[Norms, ...]:
    """Compare the L2 norms of all filters with those of the kept ones, for every layer that lost some, but not all."""
    tensors = dict(model.named_parameters())
    found = []
    for name, removed in plan.removed.items():
        group = graph[name]
        if len(removed) == group.channels:
            continue
        keep = torch.ones(group.channels, dtype=torch.bool)
        keep[list(removed)] = False
        for axis in group.filters:
            norms = rows(tensors[axis.parameter], axis).norm(dim=1)
            original, kept = norms.tolist(), norms[keep].tolist()
            layer = axis.parameter.rpartition(".")[0]
            found.append(Norms(layer=layer, original=tuple(original), kept=tuple(kept), ks=ks_distance(original, kept)))
    return tuple(found)


def _timing(times: dict[str, Latency]) -> Timing:
    before, after = times["before"], times["after"]
    return Timing(
        batch=before.batch, threads=before.threads, runtime=before.runtime, device=before.device, n=before.n,
        before_ms=(before.lower_ms, before.median_ms, before.upper_ms),
        after_ms=(after.lower_ms, after.median_ms, after.upper_ms),
        ratio=after.relative,
    )  # fmt: skip
