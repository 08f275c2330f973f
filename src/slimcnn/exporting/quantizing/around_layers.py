"""What a detector computes before its first and after its last layers: images, boxes, scores; int8 would spoil them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

CHOICES = ("TopK", "NonMaxSuppression", "NonZero")
"""Beginnings of the types of operations that choose by value, in ONNX and in OpenVINO."""
HOLDERS = ("Constant", "Parameter", "Result")
"""Types that compute nothing."""


def around_layers(
    types: Mapping[str, str], consumers: Mapping[str, Collection[str]], weighted: Collection[str]
) -> tuple[str, ...]:
    """Return the operations that lead from no layer with weights, or to a choice or the end without another one.

    Between two stages of a detector, the latter make and choose proposals.

    Args:
        types: operation → its type, in an order in which they can be computed.
        consumers: operation → the operations that take its output; one without consumers is an end.
        weighted: the layers with weights.

    >>> types = {"scale": "Mul", "conv": "Conv", "relu": "Relu", "head": "Conv", "exp": "Exp"}
    >>> consumers = {"scale": ["conv"], "conv": ["relu"], "relu": ["head"], "head": ["exp"]}
    >>> around_layers(types, consumers, ["conv", "head"])
    ('scale', 'exp')
    """
    layers, behind = set(weighted), set[str]()
    for name in types:
        if name in layers or name in behind:
            behind.update(consumers.get(name, ()))
    ends: dict[str, bool] = {}
    for name in reversed(list(types)):
        following = [one for one in consumers.get(name, ()) if one in types]
        chosen = not following or types[name].startswith(CHOICES)
        ends[name] = chosen or any(ends[one] for one in following if one not in layers)
    around = (name for name in types if name not in layers and (ends[name] or name not in behind))
    return tuple(name for name in around if types[name] not in HOLDERS)
