"""Copies of a network: whatever is tried is tried on one of these."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Container, Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from slimcnn.errors import ModelError
from slimcnn.graph.walking import named_modules, named_tensors

Network = TypeVar("Network", bound=nn.Module)

UNCHANGING = {int, float, bool, str, type(None), torch.dtype, torch.device, torch.Size, type}
"""Types of values that two copies may share."""


def duplicate(model: Network, shared: Container[str] = ()) -> Network:
    """Copy a network with everything in it; tensors that it kept from an earlier run come along detached.

    Parameters and buffers with names in `shared` are not copied: whoever will replace them saves that.

    Raises:
        ModelError: not an `nn.Module`, compiled, scripted, or not initialised yet; something in it cannot be copied.

    >>> net = nn.Conv2d(1, 2, 3)
    >>> duplicate(net).weight is net.weight
    False
    """
    modules = _modules_of(model)
    memo = {id(tensor): tensor for name, tensor in named_tensors(model, modules) if name in shared} if shared else {}
    return _copy(model, [module for _, module in modules], memo)


def sketch(model: Network) -> Network:
    """Copy a network's modules and buffers but share its parameters: quick, for a run that will be thrown away.

    >>> net = nn.Conv2d(1, 2, 3)
    >>> sketch(net).weight is net.weight
    True
    """
    modules = [module for _, module in named_modules(model)]
    return _copy(model, modules, {id(t): t for module in modules for t in module._parameters.values() if t is not None})


def _copy(model: Network, modules: list[nn.Module], memo: dict[int, Any]) -> Network:
    plain: Callable[[Network, dict[int, Any]], Network] = partial(_copy_modules, modules)
    way = plain if _is_plain(modules) else _copy_anything
    try:
        try:
            return way(model, dict(memo))
        except RuntimeError:  # PyTorch does not copy tensors that were computed
            computed = {id(t): t.detach().clone() for t in _attributes(model) if not t.is_leaf}
            return way(model, computed | memo)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise ModelError(
            f"the network {type(model).__name__} cannot be copied ({reason}); take what is not a module, tensor or "
            "plain value out of its attributes"
        ) from error


def _copy_anything(model: Network, memo: dict[int, Any]) -> Network:
    copied = copy.deepcopy(model, memo)
    for old, new in zip(model.parameters(), copied.parameters(), strict=True):
        vars(new).update(vars(old))  # what the user wrote on it, such as "no weight decay"; PyTorch forgets it
    return copied


def _is_plain(modules: list[nn.Module]) -> bool:
    """Ask whether a network is copied by copying the attributes of its modules, each tensor with memory of its own."""
    stores = [tensors for module in modules for tensors in (module._parameters, module._buffers)]
    held = {id(tensor): tensor for tensors in stores for tensor in tensors.values() if tensor is not None}
    if any(tensor.layout is not torch.strided for tensor in held.values()):
        return False
    memory = [tensor.untyped_storage().data_ptr() for tensor in held.values() if tensor.numel()]
    return len(memory) == len(set(memory)) and all(map(_copies_by_attributes, {type(module) for module in modules}))


def _copies_by_attributes(kind: type[nn.Module]) -> bool:
    """Ask whether copying the attributes of a module is copying the module: its class has no say in it."""
    special = {"__getstate__", "__reduce_ex__", "__reduce__", "__deepcopy__", "__slots__"}
    if any(special & vars(parent).keys() for parent in kind.__mro__ if parent not in (object, nn.Module)):
        return False
    # Layers of PyTorch only fill in what files of older versions lack.
    return kind.__setstate__.__module__.startswith("torch.")


def _copy_modules(modules: list[nn.Module], model: Network, memo: dict[int, Any]) -> Network:
    """Copy a network as `copy.deepcopy` does, but quicker: most of what modules hold is empty or a number."""
    for module in modules:
        memo[id(module)] = module.__class__.__new__(module.__class__)
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if id(tensor) not in memo and tensor.__class__ in (Tensor, nn.Parameter) and tensor.is_leaf:
                memo[id(tensor)] = _copy_tensor(tensor)
    for module in modules:
        state = vars(module).copy()
        state.pop("_compiled_call_impl", None)
        for name, value in state.items():
            kind = value.__class__
            if kind is OrderedDict or kind is dict:
                state[name] = _copy_value(value, memo) if value else kind()  # hooks, mostly empty
            elif kind not in UNCHANGING:
                state[name] = _copy_value(value, memo)
        vars(memo[id(module)]).update(state)
    copied: Network = memo[id(model)]
    return copied


def _copy_value(value: Any, memo: dict[int, Any]) -> Any:
    kind = value.__class__
    if kind is dict or kind is OrderedDict:
        return kind({name: _copy_value(item, memo) for name, item in value.items()}) if value else kind()
    if kind in UNCHANGING:
        return value
    if (kind is tuple or kind is set) and all(item.__class__ in UNCHANGING for item in value):
        return kind(value)
    return memo[id(value)] if id(value) in memo else copy.deepcopy(value, memo)


def _copy_tensor(tensor: Tensor) -> Tensor:
    copied = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        copied = nn.Parameter(copied, requires_grad=tensor.requires_grad)
    elif tensor.requires_grad:
        copied.requires_grad_()
    if tensor.grad is not None:
        copied.grad = tensor.grad.detach().clone()
    vars(copied).update(vars(tensor))  # what the user wrote on it, such as "no weight decay"; PyTorch forgets it
    return copied


def _attributes(model: nn.Module) -> Iterator[Tensor]:
    """List tensors that modules hold, parameters left out."""
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                yield value
            elif value and isinstance(value, dict | list | tuple) and name not in ("_parameters", "_modules"):
                yield from (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _modules_of(model: Any) -> list[tuple[str, nn.Module]]:
    """List the modules of a network, and refuse what cannot be cut."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"a network must be an nn.Module; found {type(model).__name__}")
    modules = named_modules(model)
    for name, module in modules:
        where = f"{name!r}, a {type(module).__name__}," if name else f"the network, a {type(module).__name__},"
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(f"{where} is scripted and cannot be cut; pass the network before torch.jit")
        if "_orig_mod" in module._modules:
            raise ModelError(f"{where} is compiled and cannot be cut; pass the network before torch.compile")
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is None:
                continue
            if is_lazy(tensor):
                raise ModelError(f"{where} has no weights yet (it is lazy); run the network once, then trace it")
            if tensor.is_meta:
                raise ModelError(f"{where} has no weights (it is on the meta device); load its weights first")
    return modules
