"""Prune half of every layer's channels by L1 with three libraries.

Every function takes a subject, prunes the network or a copy, and returns the small network and a dict of facts specific to
the library.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from zoo_networks import Subject

Found = tuple[nn.Module, dict[str, Any]]


def with_slimcnn(subject: Subject) -> Found:
    """Trace, score, allocate, prune; then verify, timed separately."""
    from slimcnn import Target, allocate, mask, prune, score, trace
    from slimcnn.pruning import verify

    began = time.process_time()
    graph = trace(subject.model, subject.example)
    traced = time.process_time()
    facts: dict[str, Any] = {
        "groups": len(graph.groups),
        "channels": sum(group.channels for group in graph.groups),
        "locked": len({lock.layer for lock in graph.locked}),
        "locked_because": _reasons(graph),
        "trace_seconds": traced - began,
    }
    if not graph.groups:
        return subject.model, facts | {"seconds": traced - began}
    plan = allocate(graph, score(subject.model, graph, "l1"), Target(pruning_ratio=0.5))
    small = prune(subject.model, graph, plan, verify=False)
    cut = time.process_time()
    verdict = verify(mask(subject.model, graph, plan), small, graph, plan)
    facts |= {"own_verdict": str(verdict), "own_error": verdict.error, "own_equal": verdict.equal}
    return small, facts | {"seconds": cut - began, "verify_seconds": time.process_time() - cut}


def _reasons(graph: Any) -> list[tuple[str, str, int]]:
    """Return the reasons and places of locks, most frequent first; the classifier's is last."""
    counted = Counter((lock.reason, lock.where) for lock in graph.locked)
    rows = [(reason, where, n) for (reason, where), n in counted.most_common()]
    return sorted(rows, key=lambda row: row[0] == "the network's output")[:4]


def with_torch_pruning(subject: Subject) -> Found:
    """Prune with `MagnitudePruner` and L1, the classifiers ignored, as in its readme."""
    import torch_pruning as tp

    began = time.process_time()
    pruner = tp.pruner.MagnitudePruner(
        subject.model, subject.example, importance=tp.importance.MagnitudeImportance(p=1), pruning_ratio=0.5,
        ignored_layers=list(subject.classifiers),
    )  # fmt: skip
    groups = 0
    for group in pruner.step(interactive=True):
        group.prune()
        groups += 1
    return subject.model, {"groups": groups, "seconds": time.process_time() - began}


def with_kirigami(subject: Subject) -> Found:
    """Prune layer by layer with `plan_remove`: the lower half by L1 of every layer that has not lost half already.

    Its own `Greedy` strategy replans the whole network for every channel: ResNet-18 took longer than five minutes.
    A layer for which no choice is accepted keeps its channels.
    """
    from torch_kirigami import DependencyGraph
    from torch_kirigami.pruning import Pruner

    began = time.process_time()
    graph = DependencyGraph.build(subject.model, args=(subject.example,))
    pruner = Pruner(subject.model, graph=graph)
    remove: list[Any] = []
    refused = []
    gone = graph.propagate(remove=(), constraints=pruner.constraints)
    for name, layer in _layers(subject.model):
        for half in _halves(graph, gone, name, layer, _parts(subject.model, layer)):
            then = graph.propagate(remove=(*remove, half), constraints=pruner.constraints)
            if then.status == "resolved":
                gone = then
                remove.append(half)
                break
            refused.append(name)
    if not remove:
        raise RuntimeError(f"no layer's half was accepted; diagnostics: {[str(d) for d in graph.diagnostics[:1]]}")
    small, _ = pruner.apply(pruner.plan_remove(remove))
    facts = {"groups": len(remove), "refused": len(set(refused)), "seconds": time.process_time() - began}
    return small, facts


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, kinds))


def _parts(model: nn.Module, layer: Any) -> list[int]:
    """Return the possible numbers of equal parts of a layer: 1, and the groups of grouped convolutions that fit."""
    size = layer.weight.shape[1 if getattr(layer, "transposed", False) else 0]
    groups = {module.groups for _, module in _layers(model) if isinstance(getattr(module, "groups", None), int)}
    return [1, *sorted(n for n in groups if n > 1 and size % n == 0 and size // n > 1)]


def _halves(graph: Any, gone: Any, name: str, layer: Any, parts: list[int]) -> Iterator[Any]:
    """Yield the lower half of a layer's filters, overall and per part, unless half have been removed already."""
    from torch_kirigami import IndexSet

    axis = 1 if getattr(layer, "transposed", False) else 0
    tensor = graph.parameter(f"{name}.weight" if name else "weight")
    lost = list(gone.selection(tensor).fully_selected_indices(axis))
    size = tensor.shape[axis]
    if len(lost) >= size // 2 or size < 2:
        return
    scores = layer.weight.detach().abs().transpose(0, axis).flatten(1).sum(1)
    scores[lost] = -1
    for n in parts:
        yield tensor.axis(axis).select(IndexSet.of(_lowest(scores, size // 2, n)))


def _lowest(scores: Tensor, count: int, parts: int) -> list[int]:
    each = scores.view(parts, -1)
    chosen = each.argsort(1)[:, : count // parts] + torch.arange(parts)[:, None] * each.shape[1]
    return sorted(chosen.flatten().tolist())


LIBRARIES: dict[str, Callable[[Subject], Found]] = {
    "slimcnn": with_slimcnn,
    "torch-pruning": with_torch_pruning,
    "kirigami": with_kirigami,
}
