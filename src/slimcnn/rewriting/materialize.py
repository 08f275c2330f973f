"""Weights that the network computes each time it runs, replaced by their values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from slimcnn.errors import ModelError
from slimcnn.graph.copying import duplicate
from slimcnn.layers.materializing import (
    PLAIN,
    RECORD,
    computed_tensors,
    materialize_tensors,
    materialized_of,
    plain_layer,
    replace_layers,
)
from slimcnn.layers.mixing import is_mixed
from slimcnn.layers.reusing import units_in
from slimcnn.rewriting.rules import Change, RewriteRule, Rewritten, rewrites

Network = TypeVar("Network", bound=nn.Module)

PRODUCTS = (F.conv1d, F.conv2d, F.conv3d, F.linear)


def materialize(model: Network) -> Network:
    """Return a copy of a network in which computed weights are replaced by their values; it computes the same.

    A weight that is computed from all of its inputs (weight standardization, weight norm, spectral norm, or any other
    parametrization) changes when one input channel is removed, so `trace` locks these channels. In the copy, the layers
    are plain and their channels are free. Training the copy trains the values: it is no longer standardized.

    A layer of a subclass is replaced only if a plain layer returns identical outputs on random inputs of several sizes.

    Args:
        model: the network; not changed.

    Raises:
        ModelError: the network has no computed weights that can be replaced, or it has units of feature reuse.

    >>> import slimcnn
    >>> normed = nn.utils.parametrizations.weight_norm
    >>> net = nn.Sequential(normed(nn.Conv2d(3, 8, 3)), nn.ReLU(), normed(nn.Conv2d(8, 4, 3)))
    >>> [len(slimcnn.trace(one, torch.zeros(1, 3, 8, 8)).groups) for one in (net, slimcnn.materialize(net))]
    [0, 1]
    """
    return _materialized(model)[0]


def _materialized(model: Network) -> tuple[Network, list[Change]]:
    if units_in(model):
        raise ModelError("the network has units of feature reuse: materialize its weights before the other rewrite")
    copied = duplicate(model)
    modes = {module: module.training for module in copied.modules()}
    copied.eval()
    owners = Counter(id(p) for m in copied.modules() for p in m._parameters.values() if p is not None)
    record = materialized_of(model)
    new: dict[nn.Module, nn.Module] = {}
    changes = [Change(name, why_left="its weights are values already") for name in record]
    for name, module in copied.named_modules():
        try:
            how = _materialize_layer(module, owners, new)
        except _Left as left:
            changes.append(Change(name, why_left=str(left)))
            continue
        if how:
            record[name] = how
            changes.append(Change(name, what=_described(how)))
    for module, training in modes.items():
        module.training = training
        if module in new:
            new[module].train(training)
    copied = cast(Network, replace_layers(copied, new))
    if not record:
        why = f"{changes[0].layer}: {changes[0].why_left}" if changes else "the network computes none of its weights"
        raise ModelError(f"no weights to materialize; {why}")
    vars(copied)[RECORD] = record
    return copied, changes


class _Left(Exception):
    """The reason why a layer that computes its weights stays as it is."""


def _materialize_layer(
    module: nn.Module, owners: Counter[int], new: dict[nn.Module, nn.Module]
) -> list[str] | str | None:
    """Materialize one layer of a copy; returns how, or None if it computes no weights."""
    names = computed_tensors(module)
    own_class = isinstance(module, PLAIN) and type(module) not in PLAIN and not names
    weights = _computed_weights(module) if own_class else None
    if not names and weights is None:
        return None
    if is_mixed(type(module)):
        raise _Left("it scatters or gathers channels: materialize first")
    if any(owners[id(p)] > 1 for p in module.parameters()):
        raise _Left("it shares its weights with another layer")
    if weights is None:
        return _without_parametrizations(module, names)
    new[module], how = _plain(module, *weights)
    return how


def _without_parametrizations(module: nn.Module, names: list[str]) -> list[str]:
    trial = duplicate(module)
    if not all(torch.equal(getattr(trial, name), getattr(module, name)) for name in names):
        raise _Left("its weights change from run to run")
    materialize_tensors(module, names)
    return names


class _Products(TorchFunctionMode):
    """Record the weights and biases of all convolutions and linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, Tensor | None]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in PRODUCTS:
            _, weight, bias = (*args, *(kwargs[name] for name in ("weight", "bias") if name in kwargs), None)[:3]
            self.found.append((weight, bias))
        return func(*args, **kwargs)


def _computed_weights(module: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Return the weight and bias that a layer of a subclass computes; None if it uses its own parameters."""
    trial = duplicate(module)
    found: list[tuple[Tensor, Tensor | None]] = []
    memory = {tensor.untyped_storage().data_ptr() for tensor in (*trial.parameters(), *trial.buffers())}
    for x in _inputs(module):
        with torch.no_grad(), _Products() as products:
            try:
                trial(x)
            except Exception:
                return None  # not a layer that can be tried alone
        found += products.found if len(products.found) == 1 else []
    if len(found) < len(list(_inputs(module))) or found[0][0].untyped_storage().data_ptr() in memory:
        return None
    weight, bias = found[0]
    own = module._parameters.get("weight")
    constant = all(_equal(weight, w) and _equal(bias, b) for w, b in found)
    return (weight, bias) if constant and own is not None and own.shape == weight.shape else None


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


def _inputs(module: nn.Module) -> Iterator[Tensor]:
    """Yield random inputs of three sizes."""
    like = next(module.parameters())
    generator = torch.Generator().manual_seed(0)
    for more in range(3):
        if isinstance(module, nn.Linear):
            shape = [2 + more, module.in_features]
        else:
            conv = cast(nn.Conv2d, module)
            spans = [d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
            shape = [2, conv.in_channels, *(span + 4 + more + i for i, span in enumerate(spans))]
        yield torch.randn(shape, generator=generator).to(like.device, like.dtype)


def _plain(module: nn.Module, weight: Tensor, bias: Tensor | None) -> tuple[nn.Module, str]:
    """Return a plain layer with these weights that returns the same outputs, and its kind."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    if any(hooks):
        raise _Left("it has hooks")
    for how in ("plain", "same") if isinstance(module, nn.Conv2d) else ("plain",):
        new = plain_layer(module, how == "same")
        own, trains = cast(nn.Conv2d, new), cast(Tensor, module.weight).requires_grad
        if (own.bias is None) != (bias is None):
            continue
        own.weight = nn.Parameter(weight.detach().clone(memory_format=_format_of(module)), requires_grad=trains)
        if bias is not None:
            own.bias = nn.Parameter(bias.detach().clone(), requires_grad=cast(Tensor, module.bias).requires_grad)
        with torch.no_grad():
            if all(_equal(_outcome(module, x), _outcome(new, x)) for x in _inputs(module)):
                return new, how
    raise _Left("it computes more than a convolution or linear layer with a fixed weight")


def _format_of(module: nn.Module) -> torch.memory_format:
    weight = cast(Tensor, module.weight)
    last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _outcome(module: nn.Module, x: Tensor) -> Tensor | None:
    try:
        made: Tensor = duplicate(module)(x)
    except RuntimeError:
        return None
    return made


def _described(how: list[str] | str) -> str:
    if how == "same":
        return "computed weight replaced by its value, with SAME padding"
    return "computed weight replaced by its value" if how == "plain" else f"{', '.join(how)} replaced by its value"


@rewrites.add("materialize", source="the network's own weights")
def materializing() -> RewriteRule:
    """Replace weights that the network computes (weight standardization, weight norm) by their values."""

    def rewrite(model: nn.Module, example: Any) -> Rewritten:
        copied, changes = _materialized(model)
        return Rewritten(copied, tuple(changes))

    return rewrite
