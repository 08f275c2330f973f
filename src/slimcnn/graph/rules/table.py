"""The table of rules: operation → what it does to channel ids."""

from __future__ import annotations

from collections.abc import Callable

from slimcnn.graph.ids import Label
from slimcnn.graph.ledger import Call
from slimcnn.graph.tracer import Tracer

Labels = list[Label] | None
"""One label per output tensor, missing ones empty; None for a constant that owes nothing to its inputs' numbers."""

Rule = Callable[[Tracer, Call], Labels]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Give the decorated rule to these operations."""

    def decorate(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return decorate
