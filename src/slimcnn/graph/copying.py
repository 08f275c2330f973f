"""Copies of a network: whatever is tried is tried on one of these."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from slimcnn.errors import ModelError

Network = TypeVar("Network", bound=nn.Module)


def duplicate(model: Network) -> Network:
    """Copy a network with everything in it; tensors that it kept from an earlier run come along detached.

    Raises:
        ModelError: not an `nn.Module`, compiled, scripted, or not initialised yet; something in it cannot be copied.

    >>> net = nn.Conv2d(1, 2, 3)
    >>> duplicate(net).weight is net.weight
    False
    """
    _refuse_what_cannot_be_cut(model)
    copied = _copy(model, _computed_tensors(model))
    for old, new in zip(model.parameters(), copied.parameters(), strict=True):
        vars(new).update(vars(old))  # what the user wrote on it, such as "no weight decay"; PyTorch forgets it
    return copied


def sketch(model: Network) -> Network:
    """Copy a network's modules and buffers but share its parameters: quick, for a run that will be thrown away.

    >>> net = nn.Conv2d(1, 2, 3)
    >>> sketch(net).weight is net.weight
    True
    """
    return _copy(model, _computed_tensors(model) | {id(p): p for p in model.parameters()})


def _copy(model: Network, memo: dict[int, Any]) -> Network:
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise ModelError(
            f"the network {type(model).__name__} cannot be copied ({reason}); take what is not a module, tensor or "
            "plain value out of its attributes"
        ) from error


def _computed_tensors(model: nn.Module) -> dict[int, Tensor]:
    """Detach the results that modules keep as attributes (old weight_norm does): PyTorch does not copy those."""
    return {id(t): t.detach().clone() for t in _attributes(model) if not t.is_leaf}


def _attributes(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                yield value
            elif value and isinstance(value, dict | list | tuple) and name not in ("_parameters", "_modules"):
                yield from (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _refuse_what_cannot_be_cut(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ModelError(f"a network must be an nn.Module; found {type(model).__name__}")
    for name, module in model.named_modules():
        where = f"{name!r}, a {type(module).__name__}," if name else f"the network, a {type(module).__name__},"
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(f"{where} is scripted and cannot be cut; pass the network before torch.jit")
        if hasattr(module, "_orig_mod"):
            raise ModelError(f"{where} is compiled and cannot be cut; pass the network before torch.compile")
        tensors = (*module._parameters.items(), *module._buffers.items())
        if any(is_lazy(tensor) for _, tensor in tensors):
            raise ModelError(
                f"{where} has no weights yet (it is lazy); run the network once on an input, then trace it"
            )
        if any(tensor is not None and tensor.is_meta for _, tensor in tensors):
            raise ModelError(f"{where} has no weights (it is on the meta device); load its weights first")
