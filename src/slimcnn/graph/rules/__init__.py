"""Rules: the effect of each family of operations on channel ids.

An operation that only moves values is executed on the ids (`moving.py`). For operations that combine tensors
(`pointwise.py`), reduce an axis (`reducing.py`) or read and produce channels with weights (`weights.py`), a rule is a
small function `(tracer, call) -> labels of the outputs`. Unknown operations lock the channels of their inputs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from slimcnn.graph.operations import operation
from slimcnn.graph.trace_record import Call
from slimcnn.layers.materializing import PLAIN, computed_tensors

if TYPE_CHECKING:
    from slimcnn.graph.operations import Labels
    from slimcnn.graph.tracer import Tracer

UNKNOWN = "operation without a rule"

COMPUTED = "the weight is computed: slimcnn.materialize (--rewrite materialize) frees the channels"

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
"""Layers whose computed weights `materialize` can replace by values."""


def apply_rule(tracer: Tracer, call: Call) -> Labels:
    """Return the labels of an operation's outputs, one for each output tensor."""
    from slimcnn.graph.rules.pointwise import pointwise

    rule = operation(call.site.op).rule or (pointwise if torch.Tag.pointwise in call.func.tags else unknown)
    before = len(tracer.record.locks)
    labels = rule(tracer, call)
    if len(tracer.record.locks) > before and _computes_weight(tracer, call):
        locks = tracer.record.locks
        locks[before:] = [replace(lock, reason=COMPUTED) for lock in locks[before:]]
    if labels is None:
        return None
    return (labels + [()] * len(call.outputs))[: len(call.outputs)]


def _computes_weight(tracer: Tracer, call: Call) -> bool:
    """Return whether the operation is part of computing a layer's weight, or reads channels with such a weight."""
    module, weight = tracer.module, call.arguments.get("weight")
    if all(map(tracer.fixed, call.tensors)):
        computes = isinstance(module, LAYERS) and (type(module) not in PLAIN or bool(computed_tensors(module)))
        return computes or ".parametrizations." in f".{tracer.module_name}."
    own = module._parameters.get("weight") if isinstance(module, LAYERS) else weight
    return own is not weight and isinstance(weight, torch.Tensor) and tracer.fixed(weight)


def unknown(tracer: Tracer, call: Call) -> Labels:
    """Lock all input channels of an operation without a rule."""
    name = call.site.op if "." in call.site.op else f"aten.{call.site.op}"
    reason = f"{UNKNOWN} (if it is elementwise, call slimcnn.rule({name!r}, like='aten.relu'); else see docs/graph.md)"
    for tensor in call.tensors:
        tracer.lock_label(tracer.label(tensor), reason, call)
    return []
