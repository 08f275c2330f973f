"""Copy a network, so that the user's model is never changed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from slimcnn.errors import ModelError
from slimcnn.graph import fast
from slimcnn.graph.fast.copying import copy_modules, is_plain
from slimcnn.graph.fast.module_tree import named_modules, named_tensors

Network = TypeVar("Network", bound=nn.Module)


def duplicate(model: Network, shared: Container[str] = ()) -> Network:
    """Deep-copy a network; tensors cached from an earlier run are detached.

    Parameters and buffers named in `shared` are not copied: use this for tensors that will be replaced.

    Raises:
        ModelError: not an `nn.Module`; compiled, scripted or uninitialized; or an attribute cannot be copied.

    >>> net = nn.Conv2d(1, 2, 3)
    >>> duplicate(net).weight is net.weight
    False
    """
    modules = _modules_of(model)
    memo = {id(tensor): tensor for name, tensor in named_tensors(model, modules) if name in shared} if shared else {}
    return _copy(model, [module for _, module in modules], memo)


def shallow_copy(model: Network) -> Network:
    """Copy a network's modules and buffers but share its parameters, for a temporary copy.

    >>> net = nn.Conv2d(1, 2, 3)
    >>> shallow_copy(net).weight is net.weight
    True
    """
    modules = [module for _, module in named_modules(model)]
    return _copy(model, modules, {id(t): t for module in modules for t in module._parameters.values() if t is not None})


def duplicate_as(model: Network, dtype: torch.dtype) -> Network:
    """Copy a network to the CPU with another floating-point dtype, like `duplicate(model).cpu().to(dtype)`.

    Parameters are copied once, into the new dtype, and have no gradients.

    >>> duplicate_as(nn.Conv2d(1, 2, 3), torch.float64).weight.dtype
    torch.float64
    """
    modules = [module for _, module in _modules_of(model)]
    held = {id(p): p for module in modules for p in module._parameters.values() if type(p) is nn.Parameter}
    plain = {key: p for key, p in held.items() if p.is_floating_point() and p.layout is torch.strided}
    return _copy(model, modules, {key: _parameter_as(p, dtype) for key, p in plain.items()}).cpu().to(dtype)


def _parameter_as(parameter: nn.Parameter, dtype: torch.dtype) -> nn.Parameter:
    values = parameter.detach().to("cpu", dtype, copy=True)
    copied = nn.Parameter(values, requires_grad=parameter.requires_grad)
    vars(copied).update(vars(parameter))  # attributes set by the user, such as "no weight decay"
    return copied


def shares_memory(model: nn.Module) -> bool:
    """Return whether different parameters or buffers of a network are views of the same memory.

    >>> net = nn.Linear(2, 2)
    >>> net.register_buffer("row", net.weight.detach()[0])
    >>> shares_memory(nn.Linear(2, 2)), shares_memory(net)
    (False, True)
    """
    strided = [t for _, t in named_tensors(model) if t.layout is torch.strided and t.numel()]
    memory = [tensor.untyped_storage().data_ptr() for tensor in strided]
    return len(memory) != len(set(memory))


def _copy(model: Network, modules: list[nn.Module], memo: dict[int, Any]) -> Network:
    plain: Callable[[Network, dict[int, Any]], Network] = partial(copy_modules, modules)
    way = plain if fast.is_on() and is_plain(modules) else _copy_anything
    try:
        try:
            return way(model, dict(memo))
        except RuntimeError:  # PyTorch does not copy non-leaf tensors
            computed = {id(t): t.detach().clone() for t in _attributes(model) if not t.is_leaf}
            return way(model, computed | memo)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise ModelError(
            f"the network {type(model).__name__} cannot be copied ({reason}); its attributes must be modules, tensors "
            "or plain values"
        ) from error


def _copy_anything(model: Network, memo: dict[int, Any]) -> Network:
    copied = copy.deepcopy(model, memo)
    for old, new in zip(model.parameters(), copied.parameters(), strict=True):
        vars(new).update(vars(old))  # attributes set by the user, such as "no weight decay"; PyTorch drops them
    return copied


def _attributes(model: nn.Module) -> Iterator[Tensor]:
    """List the tensors that modules hold, without parameters."""
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                yield value
            elif value and isinstance(value, dict | list | tuple) and name not in ("_parameters", "_modules"):
                yield from (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _modules_of(model: Any) -> list[tuple[str, nn.Module]]:
    """List the modules of a network, and reject networks that cannot be pruned."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"a network must be an nn.Module; found {type(model).__name__}")
    modules = named_modules(model)
    for name, module in modules:
        where = f"{name!r}, a {type(module).__name__}," if name else f"the network, a {type(module).__name__},"
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(f"{where} is scripted and cannot be pruned; pass the network before torch.jit")
        if "_orig_mod" in module._modules:
            raise ModelError(f"{where} is compiled and cannot be pruned; pass the network before torch.compile")
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is None:
                continue
            if is_lazy(tensor):
                raise ModelError(f"{where} has no weights yet (it is lazy); run the network once, then trace it")
            if tensor.is_meta:
                raise ModelError(f"{where} has no weights (it is on the meta device); load its weights first")
    return modules
