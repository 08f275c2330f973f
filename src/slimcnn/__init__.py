"""Make trained convolutional networks smaller and faster, and prove that nothing broke.

>>> import slimcnn, torch
>>> net = slimcnn.build("resnet20")
>>> graph = slimcnn.trace(net, torch.zeros(1, 3, 32, 32))
>>> scores = slimcnn.score(net, graph, "fpdf")
>>> plan = slimcnn.allocate(graph, scores, slimcnn.Target(macs=0.5))
>>> small = slimcnn.prune(net, graph, plan)
>>> slimcnn.measure(small, graph.example).macs <= 0.5 * slimcnn.measure(net, graph.example).macs
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimcnn.benchmarking import benchmark
    from slimcnn.checkpoints import load, save
    from slimcnn.datasets import Dataset, load_dataset
    from slimcnn.errors import SlimcnnError
    from slimcnn.exporting import export
    from slimcnn.exporting.quantizing import quantize
    from slimcnn.graph import ChannelGraph, ChannelGroup, rule, trace
    from slimcnn.measuring import Inputs, latency, measure
    from slimcnn.models import build, load_weights, pretrained, resolve
    from slimcnn.objectives import Loss, Objective, SparseScales
    from slimcnn.pruning import (
        Criterion,
        Plan,
        Scores,
        SoftPruning,
        Target,
        allocate,
        carry,
        latency_model,
        mask,
        prune,
        score,
        sensitivity,
    )
    from slimcnn.recovery import fold_constants, least_squares, recalibrate, reuse_features, synthesize
    from slimcnn.rewriting import (
        feature_reuse,
        fold_relations,
        insert_relations,
        materialize,
        replace,
        replace_head,
        scatter,
    )
    from slimcnn.running import Recipe, Step, run
    from slimcnn.running.python import chain
    from slimcnn.studying import run_study
    from slimcnn.tasks import Task
    from slimcnn.training import Training, evaluate, fit
    from slimcnn.verifying import Certificate, verify

__version__ = "0.2.0"

_HOMES = {
    "benchmarking": ["benchmark"],
    "checkpoints": ["load", "save"],
    "datasets": ["Dataset", "load_dataset"],
    "errors": ["SlimcnnError"],
    "exporting": ["export"],
    "exporting.quantizing": ["quantize"],
    "graph": ["ChannelGraph", "ChannelGroup", "rule", "trace"],
    "measuring": ["Inputs", "latency", "measure"],
    "models": ["build", "load_weights", "pretrained", "resolve"],
    "objectives": ["Loss", "Objective", "SparseScales"],
    "pruning": [
        "Criterion",
        "Plan",
        "Scores",
        "SoftPruning",
        "Target",
        "allocate",
        "carry",
        "latency_model",
        "mask",
        "prune",
        "score",
        "sensitivity",
    ],
    "recovery": ["fold_constants", "least_squares", "recalibrate", "reuse_features", "synthesize"],
    "rewriting": [
        "feature_reuse",
        "fold_relations",
        "insert_relations",
        "materialize",
        "replace",
        "replace_head",
        "scatter",
    ],
    "running": ["Recipe", "Step", "run"],
    "running.python": ["chain"],
    "studying": ["run_study"],
    "tasks": ["Task"],
    "training": ["Training", "evaluate", "fit"],
    "verifying": ["Certificate", "verify"],
}
_ROOMS = ("errors", "show", "steps", "studying")
"""Modules whose names are used as attributes: `slimcnn.steps.Prune`."""
_HOME = {name: f"slimcnn.{module}" for module, names in _HOMES.items() for name in names}

__all__ = [
    "Certificate",
    "ChannelGraph",
    "ChannelGroup",
    "Criterion",
    "Dataset",
    "Inputs",
    "Loss",
    "Objective",
    "Plan",
    "Recipe",
    "Scores",
    "SlimcnnError",
    "SoftPruning",
    "SparseScales",
    "Step",
    "Target",
    "Task",
    "Training",
    "allocate",
    "benchmark",
    "build",
    "carry",
    "chain",
    "evaluate",
    "export",
    "feature_reuse",
    "fit",
    "fold_constants",
    "fold_relations",
    "insert_relations",
    "latency",
    "latency_model",
    "least_squares",
    "load",
    "load_dataset",
    "load_weights",
    "mask",
    "materialize",
    "measure",
    "pretrained",
    "prune",
    "quantize",
    "recalibrate",
    "replace",
    "replace_head",
    "resolve",
    "reuse_features",
    "rule",
    "run",
    "run_study",
    "save",
    "scatter",
    "score",
    "sensitivity",
    "synthesize",
    "trace",
    "verify",
]


def __getattr__(name: str) -> Any:
    # Importing PyTorch takes seconds; `slimcnn --help` must not wait for it.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"slimcnn.{name}")
    raise AttributeError(f"module 'slimcnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS, "__version__", "__doc__", "__file__", "__name__", "__path__"])
