"""Replace weights that a network computes from other tensors by their values, and describe it for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from slimcnn.errors import ModelError
from slimcnn.layers.mixing import is_mixed

PLAIN: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Layers that can replace a layer of a subclass."""

RECORD = "materialized"
"""Attribute of a network: layer name -> names of its tensors, or "plain" or "same" for a layer of another class."""


class SameConv2d(nn.Conv2d):
    """A convolution whose output has ceil(size / stride) pixels for every input size, as TensorFlow pads.

    >>> SameConv2d(3, 8, 3, stride=2)(torch.zeros(1, 3, 9, 8)).shape
    torch.Size([1, 8, 5, 4])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Pad by half of what is missing on each side; the odd pixel goes to the end."""
        amounts: list[int] = []
        for d in (1, 0):
            size, stride, span = input.shape[2 + d], self.stride[d], self.dilation[d] * (self.kernel_size[d] - 1) + 1
            missing = max((-(-size // stride) - 1) * stride + span - size, 0)
            amounts += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(input, amounts))


def computed_tensors(module: nn.Module) -> list[str]:
    """Return the names of a layer's tensors that a parametrization, weight norm or spectral norm computes.

    >>> computed_tensors(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)))
    ['weight']
    """
    lists = module._modules.get("parametrizations") if parametrize.is_parametrized(module) else None
    names = [] if lists is None else list(lists._modules)
    return names + [hook.name for hook in _hooks(module)]


def _hooks(module: nn.Module) -> list[WeightNorm | SpectralNorm]:
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm | SpectralNorm)]


def materialize_tensors(module: nn.Module, names: list[str]) -> None:
    """Replace computed tensors of a layer by their values, in place; the layer must be in eval mode.

    >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)).eval()
    >>> materialize_tensors(layer, ["weight"])
    >>> [name for name, _ in layer.named_parameters()], type(layer) is nn.Linear
    (['bias', 'weight'], True)
    """
    for hook in _hooks(module):
        if hook.name in names:
            with torch.no_grad():
                (remove_weight_norm if isinstance(hook, WeightNorm) else remove_spectral_norm)(module, hook.name)
    for name in names:
        if parametrize.is_parametrized(module, name):
            _remove_parametrization(module, name)


def _remove_parametrization(module: nn.Module, name: str) -> None:
    """Remove a parametrization without writing into its originals, which other layers may share."""
    parametrizations: Any = module.parametrizations[name]  # type: ignore[index]
    originals = [t for n, t in chain(parametrizations._parameters.items(), parametrizations._buffers.items())
                 if n.startswith("original") and t is not None]  # fmt: skip
    trained = [t for t in originals if isinstance(t, nn.Parameter)]
    with torch.no_grad():
        value = getattr(module, name).detach().clone()
    for store in (parametrizations._parameters, parametrizations._buffers):
        store.update({n: _copied(t) for n, t in store.items() if t is not None})
    kind = type(module)
    # PyTorch removes a property from the class, which copies of the layer share.
    contents = {key: item for key, item in vars(kind).items() if key not in ("__dict__", "__weakref__")}
    module.__class__ = type(kind.__name__, kind.__bases__, contents)
    parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    delattr(module, name)
    if trained:
        module.register_parameter(name, nn.Parameter(value, requires_grad=any(t.requires_grad for t in trained)))
    else:
        module.register_buffer(name, value)


def _copied(tensor: Tensor) -> Tensor:
    new = tensor.detach().clone()
    return nn.Parameter(new, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new


def plain_layer(module: nn.Module, same: bool) -> nn.Module:
    """Return a layer of PyTorch with the settings of a layer of a subclass and uninitialized weights.

    Raises:
        ModelError: there is no such layer.

    >>> class Standardized(nn.Conv2d): pass
    >>> plain_layer(Standardized(3, 8, 3, stride=2), same=False)
    Conv2d(3, 8, kernel_size=(3, 3), stride=(2, 2))
    """
    kind = next((kind for kind in PLAIN if isinstance(module, kind)), None)
    if kind is None or is_mixed(type(module)) or (same and kind is not nn.Conv2d):
        raise ModelError(f"a {type(module).__name__} cannot become a plain layer")
    like = next(module.parameters())
    given: dict[str, Any] = {"bias": module.bias is not None, "device": like.device, "dtype": like.dtype}
    if kind is nn.Linear:
        new: nn.Module = nn.utils.skip_init(kind, module.in_features, module.out_features, **given)
    else:
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
        settings = {name: getattr(module, name) for name in names}
        new = nn.utils.skip_init(SameConv2d if same else kind, **settings, **given)
    return new.train(module.training)


def replace_layers(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Replace layers wherever the network holds them, in place; returns the network, or its replacement."""
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is not None and child in new:
                module._modules[name] = new[child]
    return new.get(model, model)


def materialized_of(model: nn.Module) -> dict[str, Any]:
    """Return a JSON description of the layers whose weights were materialized."""
    return dict(vars(model).get(RECORD, {}))


def materialize_as(model: nn.Module, described: Mapping[str, Any]) -> nn.Module:
    """Apply a description by `materialized_of` to a freshly built network, in place; returns it or its replacement.

    Raises:
        ModelError: the network does not have these layers.
    """
    modules = dict(model.named_modules())
    new: dict[nn.Module, nn.Module] = {}
    for name, how in described.items():
        module = modules.get(name)
        if module is None or not (how in ("plain", "same") or set(how) <= {*computed_tensors(module)}):
            raise ModelError(f"the network computes no weights in layer {name!r}: use the matching network")
        if isinstance(how, str):
            new[module] = plain_layer(module, how == "same")
        else:
            materialize_tensors(module.eval(), list(how))
    model = replace_layers(model, new)
    if described:
        vars(model)[RECORD] = dict(described)
    return model
