"""What each family of operations does to channel ids.

An operation that only moves numbers needs no code: it is run on the ids (`moving.py`). Where tensors are combined
(`pointwise.py`), where an axis is reduced (`reducing.py`) and where weights read and write channels (`weights.py`), a
rule is a small function `(tracer, call) -> labels of the outputs`. Unknown operations lock the channels that enter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from slimcnn.graph.operations import operation
from slimcnn.graph.trace_record import Call

if TYPE_CHECKING:
    from slimcnn.graph.operations import Labels
    from slimcnn.graph.tracer import Tracer

UNKNOWN = "an operation whose effect on channels is not known"


def apply_rule(tracer: Tracer, call: Call) -> Labels:
    """Find the labels of an operation's outputs, one for each output tensor."""
    from slimcnn.graph.rules.pointwise import pointwise

    rule = operation(call.site.op).rule or (pointwise if torch.Tag.pointwise in call.func.tags else unknown)
    labels = rule(tracer, call)
    if labels is None:
        return None
    return (labels + [()] * len(call.outputs))[: len(call.outputs)]


def unknown(tracer: Tracer, call: Call) -> Labels:
    """Lock all channels that enter an operation without a rule."""
    name = call.site.op if "." in call.site.op else f"aten.{call.site.op}"
    reason = (
        f"{UNKNOWN} (if it works element by element: slimcnn.rule({name!r}, like='aten.relu'); else see docs/graph.md)"
    )
    for tensor in call.tensors:
        tracer.lock_label(tracer.label(tensor), reason, call)
    return []
