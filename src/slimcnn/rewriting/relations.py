"""Global feature relations: insert gates over channels into a trained network, and fold them into batch norms."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map_only

from slimcnn.errors import ModelError
from slimcnn.graph.channels import layer_of
from slimcnn.graph.copying import duplicate
from slimcnn.layers.placing import Scattering
from slimcnn.layers.relating import OPEN, Relating, fold, relate, relations_in
from slimcnn.linear.layers import layers_of
from slimcnn.rewriting.rules import Change, RewriteRule, Rewritten, rewrites

Network = TypeVar("Network", bound=nn.Module)


def insert_relations(model: Network, example: Any, mode: str = "mean", *, equal: bool = True) -> Network:
    """Return a copy of a network with a gate over the channels of every batch norm that follows a convolution.

    On z = BN(conv(x)), (n, c, h, w), e = sigmoid(W2 relu(W1 mean_hw(z) + b1) + b2) with W1: c → max(c/16, 4). In mode
    "mean", z is scaled by the mean of e over the batch, in eval mode by its moving average `sr`; `fold_relations`
    removes the gate completely. In mode "sample", z is scaled by e itself, a squeeze and excitation that stays. In mode
    "annealed", z is scaled by (1 - t) e + t mean(e), and training moves t from 0 to 1 (`SparseScales`): it ends as
    "mean".

    The copy computes the same as the model in eval mode, and in training mode until something is learned: initially W2
    is zero, b2 = 2, and scale and shift of the norm are divided by sigmoid(2) = 0.88. With `equal=False`, W2 ~
    N(0, 1), so that the gates differ from the start; a trained network then computes something else.

    Args:
        model: the network; not changed.
        example: one input batch (n, c, h, w), or a tuple or dict of inputs.
        mode: "mean", "sample" or "annealed".
        equal: whether all gates begin with the same value.

    Raises:
        ModelError: no convolution is followed by a batch norm with a scale, or the network already has relations.

    Source: CN112308213A (patent), which names pooling, a fully connected layer, a moving average and a relation factor
    per channel; the formula and the initialization are our reconstruction.

    >>> import slimcnn
    >>> net, example = slimcnn.build("resnet20").eval(), torch.randn(1, 3, 32, 32)
    >>> related = insert_relations(net, example)
    >>> bool(torch.allclose(related(example), net(example), atol=1e-5)), related.bn1.sr.shape
    (True, torch.Size([16]))
    """
    if next(relations_in(model), None) is not None:
        raise ModelError("the network already has relations: remove them with fold_relations")
    watched = duplicate(model).eval().to("cpu")
    at_home = tree_map_only(torch.Tensor, torch.Tensor.cpu, example)
    names = [
        layer_of(layer.norm.mean)
        for layer in layers_of(watched, at_home).values()
        if layer.convolution and layer.norm is not None and layer.norm.scale is not None
    ]
    related = duplicate(model)
    norms = [norm for norm in map(related.get_submodule, names) if isinstance(norm, _BatchNorm)]
    if not norms:
        raise ModelError("no convolution is followed by a batch norm with a scale: there is nothing to relate")
    if any(isinstance(norm, Scattering) for norm in norms):
        raise ModelError("layers of the network already scatter: insert relations first, then scatter")
    for norm in norms:
        relate(norm, mode, equal=equal)
        with torch.no_grad():
            for tensor in (norm.weight, norm.bias):
                tensor.div_(torch.sigmoid(torch.tensor(OPEN, dtype=torch.float64)).item())
    return related


def fold_relations(model: Network) -> Network:
    """Return a copy of a network with its relations of mode "mean" folded into the batch norms.

    gamma' = sr gamma and beta' = sr beta: in eval mode the copy computes the same, without the gates.

    Raises:
        ModelError: the network has no relation of mode "mean".

    >>> import slimcnn
    >>> net, example = slimcnn.build("resnet20").eval(), torch.randn(1, 3, 32, 32)
    >>> folded = fold_relations(insert_relations(net, example))
    >>> folded.state_dict().keys() == net.state_dict().keys()
    True
    """
    folded = duplicate(model)
    norms = [norm for _, norm in relations_in(folded) if norm.relation == "mean"]
    if not norms:
        raise ModelError("no relation of mode 'mean' to fold into a batch norm: use insert_relations first")
    for norm in norms:
        fold(norm)
    return folded


def relations_left_out(model: nn.Module) -> list[str]:
    """List the batch norms without a relation in a network with relations: they do not follow a single convolution."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and not isinstance(module, Relating)
    ]


@rewrites.add("relations", source="CN112308213A (patent), as we read it")
def relations(mode: str = "mean") -> RewriteRule:
    """Insert a gate over the channels of every batch norm that follows a convolution; see `insert_relations`."""

    def rewrite(model: nn.Module, example: Any) -> Rewritten:
        related = insert_relations(model, example, mode)
        done = [Change(name, f"relation inserted, mode {mode}") for name, _ in relations_in(related)]
        left = [Change(name, why_left="it follows no single convolution") for name in relations_left_out(related)]
        return Rewritten(related, (*done, *left))

    return rewrite
