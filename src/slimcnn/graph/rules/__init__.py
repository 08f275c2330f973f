"""What each family of operations does to channel ids.

An operation that only moves numbers needs no rule: it is run on the ids (`moving.py`).  Where tensors meet
(`meeting.py`), where an axis is used up (`reducing.py`) and where weights read and write channels (`weights.py`) a rule
is a small function `(tracer, call) -> labels of the outputs`.  Operations that no rule knows lock what goes into them.
"""

from __future__ import annotations

import torch

from slimcnn.graph.ledger import Call
from slimcnn.graph.rules import meeting, moving, reducing, weights
from slimcnn.graph.rules.table import RULES, Labels
from slimcnn.graph.tracer import Tracer

__all__ = ["RULES", "apply_rule", "meeting", "moving", "reducing", "weights"]


def apply_rule(tracer: Tracer, call: Call) -> Labels:
    """Find the labels of an operation's outputs, one for each output tensor."""
    name = call.site.op
    if name in RULES:
        labels = RULES[name](tracer, call)
    elif torch.Tag.pointwise in call.func.tags:
        labels = meeting.pointwise(tracer, call)
    else:
        labels = unknown(tracer, call)
    if labels is None:
        return None
    return (labels + [()] * len(call.outputs))[: len(call.outputs)]


def unknown(tracer: Tracer, call: Call) -> Labels:
    """Lock everything that goes into an operation that is not understood."""
    for tensor in call.tensors:
        tracer.lock_label(tracer.label(tensor), "an operation whose effect on channels is not known", call)
    return []
