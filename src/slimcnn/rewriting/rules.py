"""Rewrites by name, and `replace`, which applies one: a network goes in, another one of the same purpose comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from slimcnn.errors import ModelError
from slimcnn.models import preprocessing
from slimcnn.registry import Registry


@dataclass(frozen=True)
class Change:
    """What became of one layer."""

    layer: str
    what: str = ""
    """What was done; empty if nothing."""
    why_left: str = ""
    """Why it was left as it is; empty if it was not."""


@dataclass(frozen=True)
class Rewritten:
    """A rewritten network, and what became of every layer that the rewrite is about."""

    model: nn.Module
    changes: tuple[Change, ...]


RewriteRule = Callable[[nn.Module, Any], Rewritten]
"""From a network and an example of its input to another network; the first is not changed."""

rewrites: Registry[Callable[..., RewriteRule]] = Registry("rewrite", home="slimcnn.rewriting")
"""Every rewrite: functions that take options and return a `RewriteRule`."""


def replace(model: nn.Module, rewrite: str | RewriteRule, example: Any = None) -> nn.Module:
    """Copy a network with some of its structure replaced.

    Args:
        model: the network; not changed.
        rewrite: what `feature_reuse(...)` or another rewrite returns, or its name, as "feature_reuse:variant=chain".
        example: one input batch (n, c, h, w), or a tuple or dict of inputs; may be left out for a network that says
            what it expects (`slimcnn.build`).

    Raises:
        ModelError: nothing could be rewritten: it says why; UnknownName: there is no such rewrite.

    >>> import slimcnn
    >>> net = slimcnn.build("vgg16", head="4096-4096-10")
    >>> small = replace(net, "feature_reuse")
    >>> [slimcnn.measure(one, torch.zeros(1, 3, 32, 32)).params for one in (net, small)]
    [33642442, 25352682]
    """
    return rewritten(model, rewrite, example).model


def rewritten(model: nn.Module, rewrite: str | RewriteRule, example: Any) -> Rewritten:
    """Copy a network with some of its structure replaced, and say what became of every layer; see `replace`."""
    if example is None:
        size = preprocessing(model).input
        if size is None:
            raise ModelError("what does the network expect? give an example of its input, (n, c, h, w)")
        example = torch.zeros(1, *size)
    found = (rewrite_named(rewrite) if isinstance(rewrite, str) else rewrite)(model, example)
    if not any(change.what for change in found.changes):
        reasons = [change.why_left for change in found.changes]
        told = f"; most often, {max(set(reasons), key=reasons.count)}" if reasons else ": it has no convolution"
        raise ModelError(f"nothing in the network could be rewritten{told}")
    return found


def rewrite_named(spec: str) -> RewriteRule:
    """Build a rewrite from its name and options: `feature_reuse`, `feature_reuse:variant=chain`."""
    build, options = rewrites.split(spec, ModelError)
    return build(**options)
