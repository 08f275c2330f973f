"""Rules: the effect of each family of operations on channel ids.

An operation that only moves values is executed on the ids (`moving.py`). For operations that combine tensors
(`pointwise.py`), reduce an axis (`reducing.py`) or read and produce channels with weights (`weights.py`), a rule is a
small function `(tracer, call) -> labels of the outputs`. Unknown operations lock the channels of their inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from slimcnn.graph.operations import operation
from slimcnn.graph.trace_record import Call

if TYPE_CHECKING:
    from slimcnn.graph.operations import Labels
    from slimcnn.graph.tracer import Tracer

UNKNOWN = "operation without a rule"


def apply_rule(tracer: Tracer, call: Call) -> Labels:
    """Return the labels of an operation's outputs, one for each output tensor."""
    from slimcnn.graph.rules.pointwise import pointwise

    rule = operation(call.site.op).rule or (pointwise if torch.Tag.pointwise in call.func.tags else unknown)
    labels = rule(tracer, call)
    if labels is None:
        return None
    return (labels + [()] * len(call.outputs))[: len(call.outputs)]


def unknown(tracer: Tracer, call: Call) -> Labels:
    """Lock all input channels of an operation without a rule."""
    name = call.site.op if "." in call.site.op else f"aten.{call.site.op}"
    reason = f"{UNKNOWN} (if it is elementwise, call slimcnn.rule({name!r}, like='aten.relu'); else see docs/graph.md)"
    for tensor in call.tensors:
        tracer.lock_label(tracer.label(tensor), reason, call)
    return []
