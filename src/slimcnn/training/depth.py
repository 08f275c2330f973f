"""Layers by depth: the head, which can be trained alone first, and learning rates that fall toward the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.errors import ModelError
from slimcnn.modes import modes_restored


def layers_by_depth(model: nn.Module, x: Tensor) -> dict[str, nn.Module]:
    """Return the modules that own trainable parameters, by name, in the order in which they first run on images x.

    Those that do not run in eval mode (auxiliary heads) are left out.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 10))
    >>> list(layers_by_depth(net, torch.zeros(1, 1, 8, 8)))
    ['0', '1', '3']
    """
    found: dict[str, nn.Module] = {}
    owners = {name: module for name, module in model.named_modules() if _trainable(module, recurse=False)}

    def noting(name: str, module: nn.Module) -> Callable[..., None]:
        def note(*_: Any) -> None:
            found.setdefault(name, module)

        return note

    handles = [module.register_forward_pre_hook(noting(name, module)) for name, module in owners.items()]
    try:
        with modes_restored(model), torch.no_grad():
            model.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def head_of(model: nn.Module, x: Tensor, name: str = "") -> nn.Module:
    """Return the module that frozen epochs train: the one with this name, or else the last layer that runs.

    Raises:
        ModelError: there is no such module, or the network would have no trainable parameter inside or outside of it.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 10))
    >>> head_of(net, torch.zeros(1, 1, 8, 8))
    Linear(in_features=72, out_features=10, bias=True)
    """
    layers = layers_by_depth(model, x)
    if name:
        head = dict(model.named_modules()).get(name)
        if head is None:
            raise ModelError(f"head = {name!r}: the network has no module of this name (see slimcnn inspect)")
    elif layers:
        name, head = list(layers.items())[-1]
    else:
        raise ModelError("no layer of the network has trainable parameters: leave frozen_epochs out")
    if not _trainable(head):
        raise ModelError(f"head = {name!r} has no trainable parameters: name the module that frozen epochs train")
    if not body_of(model, head):
        raise ModelError(f"{name or 'the network'} is the only trainable layer: leave frozen_epochs out")
    return head


def body_of(model: nn.Module, head: nn.Module) -> tuple[nn.Parameter, ...]:
    """Return the trainable parameters outside of the head."""
    inside = {id(parameter) for parameter in head.parameters()}
    return tuple(parameter for parameter in _trainable(model) if id(parameter) not in inside)


def rate_shares(model: nn.Module, x: Tensor, decay: float) -> dict[int, float]:
    """Return each trainable parameter's share of the learning rate, by the parameter's id.

    Layer k of n, counted from the input in the order in which layers run, has the share decay^((n - k) / (n - 1)): the
    last one has 1, the first one has `decay`. A layer is a module that owns parameters, so a convolution and its
    batch norm are two. Layers that do not run in eval mode have 1.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 10))
    >>> shares = rate_shares(net, torch.zeros(1, 1, 8, 8), 0.01)
    >>> [round(shares[id(layer.weight)], 6) for layer in (net[0], net[1], net[3])]
    [0.01, 0.1, 1.0]
    """
    layers = layers_by_depth(model, x)
    found = {id(parameter): 1.0 for parameter in _trainable(model)}
    given: set[int] = set()
    for k, layer in enumerate(layers.values(), 1):
        for parameter in _trainable(layer, recurse=False):
            if id(parameter) not in given:  # a parameter that two layers share has the rate of the first
                given.add(id(parameter))
                found[id(parameter)] = decay ** ((len(layers) - k) / max(1, len(layers) - 1))
    return found


def _trainable(module: nn.Module, recurse: bool = True) -> list[Any]:
    return [parameter for parameter in module.parameters(recurse) if parameter.requires_grad]
