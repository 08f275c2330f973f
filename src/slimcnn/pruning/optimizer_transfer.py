"""Transfer an optimizer to the pruned network, and detect one that still holds the old parameters.

Momentum is cut by the code that cuts the weights. So training the pruned network with the carried optimizer equals
training the masked network with the old optimizer, step by step.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._pytree import tree_any, tree_map
from torch.utils.weak import WeakIdRef

from slimcnn.errors import OptimizerError, PlanError
from slimcnn.graph import ChannelGraph
from slimcnn.graph.fast.module_tree import named_parameters
from slimcnn.graph.removal import kept_positions
from slimcnn.graph.shrinking import Kept, cut
from slimcnn.pruning.plan import Plan, check

AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)


@dataclass(frozen=True)
class ParameterMap:
    """The mapping from an optimizer's parameters to those of the pruned network."""

    optimizer: str
    names: Mapping[int, str]
    """Id of an old parameter → its name."""
    renewed: Mapping[int, Tensor | None]
    """Id of an old parameter → the new parameter; None if the cut removed all of it."""
    kept: Kept


_GRAPHS: WeakKeyDictionary[nn.Module, dict[str, ChannelGraph]] = WeakKeyDictionary()
"""Networks that were pruned, with their graphs by fingerprint."""


def carry(
    optimizer: AnyOptimizer, old: nn.Module, new: nn.Module, plan: Plan, graph: ChannelGraph | None = None
) -> AnyOptimizer:
    """Create an optimizer for the pruned network from the optimizer of the original one, momentum included.

    State with the shape of its parameter (momentum, squared gradients, their maxima ...) is cut like the parameter;
    an axis of length 1 (the factors of Adafactor) is kept. Step counters, hooks and parameter groups with all their
    options are copied. The old optimizer is not changed.

    A learning rate scheduler still controls the old optimizer: create a new scheduler for the returned optimizer.

    Args:
        optimizer: holds all or some parameters of `old`, in any parameter groups.
        old: the network that was traced and pruned.
        new: the network that `prune(old, graph, plan)` returned.
        plan: the plan that `new` was pruned by.
        graph: the channel graph of `old`, from `trace`; optional if `old` was pruned in this process.

    Raises:
        OptimizerError: the optimizer holds a parameter that is not in `old`, or state that cannot be cut (the history
            of LBFGS, another optimizer).
        PlanError: the graph or the plan does not match `old` and `new`.

    >>> import slimcnn
    >>> net = slimcnn.build("resnet20")
    >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    >>> net(torch.randn(2, 3, 32, 32)).sum().backward()
    >>> sgd.step()
    >>> graph = slimcnn.trace(net, torch.zeros(1, 3, 32, 32))
    >>> plan = slimcnn.allocate(graph, slimcnn.score(net, graph, "l2"), slimcnn.Target(pruning_ratio=0.5))
    >>> small = slimcnn.prune(net, graph, plan)
    >>> carried = carry(sgd, net, small, plan)
    >>> carried.state[small.layer1[0].conv1.weight]["momentum_buffer"].shape, carried.param_groups[0]["lr"]
    (torch.Size([8, 8, 3, 3]), 0.1)
    """
    graph = _GRAPHS.get(old, {}).get(plan.network) if graph is None else graph
    if graph is None:
        raise PlanError(f"this {type(old).__name__} was not pruned by this plan in this process; pass graph=")
    passage = _passage(optimizer, old, new, graph, plan)
    carried = type(optimizer).__new__(type(optimizer))
    for name, value in vars(optimizer).items():
        # A scheduler replaces `step` by a wrapper that steps the old optimizer.
        if not (callable(value) and hasattr(type(optimizer), name)):
            setattr(carried, name, _attribute(name, value, passage))
    carried.param_groups = [_group(group, passage) for group in optimizer.param_groups]
    carried.state = copy.copy(optimizer.state)
    carried.state.clear()
    for key, state in optimizer.state.items():
        there = passage.renewed.get(id(key))
        if there is not None:
            carried.state[there] = {entry: _entry(entry, value, key, passage) for entry, value in state.items()}
        elif not isinstance(key, Tensor):
            carried.state[key] = copy.deepcopy(state)
    return carried


def _passage(optimizer: Optimizer, old: nn.Module, new: nn.Module, graph: ChannelGraph, plan: Plan) -> ParameterMap:
    """Map every parameter of the optimizer to its new one, and check that the shapes match the plan."""
    check(plan, graph)
    kept = kept_positions(graph, plan.by_index(graph))
    names = {id(parameter): name for name, parameter in old.named_parameters()}
    news = dict(new.named_parameters(remove_duplicate=False))
    layers_go = any(len(plan.removed.get(group.name, ())) == group.channels for group in graph.groups)
    renewed: dict[int, Tensor | None] = {}
    for index, parameter in enumerate(_parameters(optimizer)):
        shape, name = tuple(parameter.shape), names.get(id(parameter))
        if name is None:
            raise OptimizerError(
                f"parameter {index} of the {type(optimizer).__name__}, of shape {shape}, is not in this "
                f"{type(old).__name__}: pass an optimizer that holds only parameters of this network"
            )
        traced = tuple(share.size for share in graph.parameters.get(name, ()))
        if shape != traced:
            raise PlanError(
                f"the graph was traced on another network: {name} was {traced}, in the old network it is {shape}; pass "
                "the graph that the plan was made for"
            )
        there, wanted = news.get(name), tuple(cut(parameter, kept.get(name, {})).shape)
        if tuple(there.shape) != wanted if there is not None else not layers_go:
            raise PlanError(
                f"by the plan, {name} has shape {wanted}; in the new network it is "
                f"{'missing' if there is None else tuple(there.shape)}; pass the network that prune(old, graph, plan) "
                "returned"
            )
        renewed[id(parameter)] = there
    return ParameterMap(type(optimizer).__name__, names, renewed, kept)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _attribute(name: str, value: Any, passage: ParameterMap) -> Any:
    """Replace the parameters in an attribute of the optimizer other than its state."""

    def exchange(leaf: Any) -> Any:
        if isinstance(leaf, Optimizer):
            raise OptimizerError(
                f"the {passage.optimizer} holds another optimizer ({name}, {type(leaf).__name__}); carry that one, and "
                f"create a new {passage.optimizer} from it"
            )
        if not isinstance(leaf, Tensor):
            return leaf
        there = passage.renewed.get(id(leaf))
        return leaf.detach().clone() if there is None else there

    return value if name in ("state", "param_groups") else tree_map(exchange, value)


def _group(group: Mapping[str, Any], passage: ParameterMap) -> dict[str, Any]:
    """Copy a parameter group with the new parameters; an empty group is kept, because schedulers count groups."""
    pairs = [(index, passage.renewed[id(parameter)]) for index, parameter in enumerate(group["params"])]
    stay = [(index, there) for index, there in pairs if there is not None]
    carried = {option: copy.deepcopy(value) for option, value in group.items() if option != "params"}
    carried["params"] = [there for _, there in stay]
    if "param_names" in carried:
        carried["param_names"] = [carried["param_names"][index] for index, _ in stay]
    return carried


def _entry(entry: str, value: Any, parameter: Tensor, passage: ParameterMap) -> Any:
    """Cut one entry of a parameter's state, or copy it if it has no axis of the parameter."""
    if isinstance(value, Tensor) and value.dim() == parameter.dim():
        lengths = list(zip(value.shape, parameter.shape, strict=True))
        if all(length in (1, whole) for length, whole in lengths):
            axes = passage.kept.get(passage.names[id(parameter)], {})
            full = {axis: kept for axis, kept in axes.items() if lengths[axis][0] == lengths[axis][1]}
            return cut(value, full) if full else value.detach().clone()
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.clone()
    if tree_any(lambda leaf: isinstance(leaf, Tensor), value):
        found = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise OptimizerError(
            f"the {passage.optimizer} keeps {entry!r} ({found}) for {passage.names[id(parameter)]} of shape "
            f"{tuple(parameter.shape)} and cannot be cut like the parameter; create a new {passage.optimizer}"
        )
    return copy.deepcopy(value)


_CUT: dict[int, tuple[WeakIdRef, str]] = {}
"""Id of a parameter of a pruned network's original → weak reference to the parameter, and its network's class."""

_LAST: WeakKeyDictionary[Optimizer, list[tuple[WeakIdRef, int]]] = WeakKeyDictionary()
"""For each optimizer of such parameters: weak references to the gradients of its last step, with their versions."""


def watch_optimizers(old: nn.Module, graph: ChannelGraph) -> None:
    """Make optimizers of `old` raise if they step without new gradients; called by `prune`.

    After a cut, the loss comes from the new network. Without this check, an optimizer of the old network would
    silently step on no gradients, or on the same ones again and again. As long as gradients reach the old network, it
    trains as before. Parameters are held weakly, other optimizers are ignored, and steps that `torch.compile` or a
    CUDA graph runs are not checked.

    Raises, later, from the `step` of such an optimizer:
        OptimizerError: no parameter has a nonzero gradient, or all gradients were used by an earlier step. With a
            closure, which computes the gradients, the check runs after the step.

    >>> from slimcnn.graph import trace
    >>> net = nn.Linear(2, 2)
    >>> sgd = torch.optim.SGD(net.parameters())
    >>> sgd.step()
    >>> watch_optimizers(net, trace(net, torch.zeros(1, 2)))
    >>> sgd.step()
    Traceback (most recent call last):
    slimcnn.errors.OptimizerError: this SGD holds the parameters of a Linear that was pruned, ...
    """
    _register_hooks()
    _GRAPHS.setdefault(old, {})[graph.fingerprint] = graph
    for parameter in named_parameters(old).values():
        number = id(parameter)
        _CUT[number] = WeakIdRef(parameter, lambda _, number=number: _CUT.pop(number, None)), type(old).__name__


@cache
def _register_hooks() -> None:
    register_optimizer_step_pre_hook(_check_before_step)
    register_optimizer_step_post_hook(_check_after_step)


def _check_before_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if _holds_cut(optimizer) and not _has_closure(args, kwargs):
        _refuse_no_gradient(optimizer)
        if _gradients(optimizer) == _LAST.get(optimizer):
            raise OptimizerError(_left_behind(optimizer, "no new gradient"))


def _check_after_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not _holds_cut(optimizer):
        return
    if _has_closure(args, kwargs):
        _refuse_no_gradient(optimizer)
    else:  # not before the step: a subclass's step may call its parent's, and then the hooks run twice
        _LAST[optimizer] = _gradients(optimizer)


def _has_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return any(callable(given) for given in (*args[1:], kwargs.get("closure")))  # args[0] is the optimizer


def _holds_cut(optimizer: Optimizer) -> bool:
    if torch.compiler.is_compiling():
        return False
    if all(_CUT.keys().isdisjoint(map(id, group["params"])) for group in optimizer.param_groups):
        return False
    # During CUDA graph capture, values cannot be read.
    on_gpu = any(parameter.is_cuda for parameter in _parameters(optimizer))
    return not (on_gpu and torch.cuda.is_current_stream_capturing())


def _gradients(optimizer: Optimizer) -> list[tuple[WeakIdRef, int]]:
    gradients = [parameter.grad for parameter in _parameters(optimizer) if parameter.grad is not None]
    return [(WeakIdRef(gradient), gradient._version) for gradient in gradients]


def _refuse_no_gradient(optimizer: Optimizer) -> None:
    if not any(_is_nonzero(parameter.grad) for parameter in _parameters(optimizer)):
        raise OptimizerError(_left_behind(optimizer, "no gradient"))


def _is_nonzero(gradient: Tensor | None) -> bool:
    if gradient is None:
        return False
    return bool((gradient.coalesce().values() if gradient.is_sparse else gradient).any())


def _left_behind(optimizer: Optimizer, what: str) -> str:
    network = next(_CUT[id(p)][1] for p in _parameters(optimizer) if id(p) in _CUT)
    return (
        f"this {type(optimizer).__name__} holds the parameters of a {network} that was pruned, and they have {what}, "
        "so the step trains nothing; to train the pruned network, use the optimizer that "
        "carry(optimizer, old, new, plan) returns, or a new one"
    )
