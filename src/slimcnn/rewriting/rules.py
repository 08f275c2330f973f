"""The registry of rewrites, and `replace`, which applies one to a copy of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from slimcnn.errors import ModelError
from slimcnn.graph.execution import call_model, first_line, shapes_of
from slimcnn.models import preprocessing
from slimcnn.modes import modes_restored
from slimcnn.registry import Registry


@dataclass(frozen=True)
class Change:
    """What a rewrite did to one layer."""

    layer: str
    what: str = ""
    """What was changed; empty if nothing."""
    why_left: str = ""
    """Why the layer was not changed; empty if it was."""


@dataclass(frozen=True)
class Rewritten:
    """A rewritten network, and a `Change` for every layer that the rewrite considers."""

    model: nn.Module
    changes: tuple[Change, ...]


RewriteRule = Callable[[nn.Module, Any], Rewritten]
"""A function from a network and an example input to a rewritten copy; the network is not changed."""

rewrites: Registry[Callable[..., RewriteRule]] = Registry("rewrite", home="slimcnn.rewriting")
"""All rewrites: functions that take options and return a `RewriteRule`."""


def replace(model: nn.Module, rewrite: str | RewriteRule, example: Any = None) -> nn.Module:
    """Return a copy of a network with parts of its structure replaced.

    Args:
        model: the network; not changed.
        rewrite: the result of `feature_reuse(...)` or another rewrite, or its name, as "feature_reuse:variant=chain".
        example: one input batch (n, c, h, w), or a tuple or dict of inputs; optional for a network with a known input
            size (`slimcnn.build`).

    Raises:
        ModelError: nothing could be rewritten; the message gives the reason.
        UnknownName: there is no such rewrite.

    >>> import slimcnn
    >>> net = slimcnn.build("vgg16", head="4096-4096-10")
    >>> small = replace(net, "feature_reuse")
    >>> [slimcnn.measure(one, torch.zeros(1, 3, 32, 32)).params for one in (net, small)]
    [33642442, 25352682]
    """
    return rewritten(model, rewrite, example).model


def rewritten(model: nn.Module, rewrite: str | RewriteRule, example: Any) -> Rewritten:
    """Return a rewritten copy of a network with the change of every layer; see `replace`."""
    if example is None:
        size = preprocessing(model).input
        if size is None:
            raise ModelError("the input size of the network is unknown: give an example of its input, (n, c, h, w)")
        example = torch.zeros(1, *size)
    _refuse_what_does_not_run(model, example)
    found = (rewrite_named(rewrite) if isinstance(rewrite, str) else rewrite)(model, example)
    if not any(change.what for change in found.changes):
        reasons = [change.why_left for change in found.changes]
        why = f"most frequent reason: {max(set(reasons), key=reasons.count)}" if reasons else "it has no convolution"
        raise ModelError(f"nothing in the network could be rewritten; {why}")
    return found


def _refuse_what_does_not_run(model: nn.Module, example: Any) -> None:
    with modes_restored(model), torch.no_grad():
        try:
            call_model(model.eval(), example)
        except Exception as error:  # the network's code may raise anything
            raise ModelError(
                f"the network does not accept an input of {shapes_of(example)}: {first_line(error)}; use images of the "
                "size that it expects"
            ) from error


def rewrite_named(spec: str) -> RewriteRule:
    """Build a rewrite from its name and options: `feature_reuse`, `feature_reuse:variant=chain`."""
    build, options = rewrites.split(spec, ModelError)
    return build(**options)
