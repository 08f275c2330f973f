"""The feature reuse unit (FR-unit): it concatenates existing features with new ones, so fewer must be computed."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.errors import ModelError

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6}
"""Idempotent activations: the network's code may apply them again to the output of a unit without effect."""


@dataclass(frozen=True)
class Unit:
    """One feature reuse unit: the layers of the network that it consists of, and which features it reuses."""

    place: str
    """The module that the unit replaces: the first convolution, or a residual block."""
    layers: tuple[tuple[str, str], ...]
    """Convolutions and the batch norms that follow them ("" for none), in order."""
    reads: tuple[int, ...]
    """Input channels of each convolution."""
    makes: tuple[int, ...]
    """Output channels of each convolution."""
    reused: str
    """"input": the unit's input; "first": the output of the first convolution; "half": the second half of the input
    of each convolution."""
    activation: str
    """A module of the network, or one of `ACTIVATIONS`."""
    stride: int = 1
    """Stride by which the reused features are average-pooled."""
    dense: bool = False
    """Every convolution reads all previous features, and all are concatenated; else each reads only the previous."""
    residual: str = ""
    """"sum": x is added to the concatenated features before the activation; "joined": a block without its shortcut."""
    silenced: tuple[str, ...] = ()
    """Modules of the network that become identities because the unit does their work."""


class NewFeatures(nn.Module):
    """A convolution with its batch norm: (n, i, h, w) to (n, o, h', w')."""

    def __init__(self, conv: nn.Module, norm: nn.Module | None) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.Identity() if norm is None else norm

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalize."""
        made: Tensor = self.norm(self.conv(x))
        return made


class FeatureReuse(nn.Module):
    """Concatenate reused features r and new ones along the channels: (n, i, h, w) to (n, C, h/s, w/s), r first.

    f_1 = a(N(W_1 x)), f_j = a(N(W_j f_{j-1})), y = [r, f_k], with r = x or r = f_1. `dense`: f_j reads [r, f_1 ...
    f_{j-1}], and y contains all. In a residual block the features are concatenated before the activation, so that both
    halves of the summand keep their signs: b_1 = N(W_1 x), b_j = N(W_j a(b_{j-1})), y = [b_1, b_k].
    """

    def __init__(self, steps: Sequence[NewFeatures], activation: nn.Module, unit: Unit) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.activation = activation
        self.pool = nn.Identity() if unit.stride == 1 else nn.AvgPool2d(unit.stride, ceil_mode=True)
        self.unit = unit
        if unit.reused == "half":
            self.passed_on = unit.makes[0]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the new features and concatenate them with the reused ones."""
        if self.unit.reused == "half":
            return self._halves(x)
        reused = [self.pool(x)] if self.unit.reused == "input" else []
        made: list[Tensor] = []
        for step in self.steps:
            made.append(self._activated(step(self._source(x, reused, made))))
        if not reused and not self.unit.dense:
            reused = [self.pool(made[0])]
        return torch.cat([*reused, *(made if self.unit.dense else made[-1:])], 1)

    def _source(self, x: Tensor, reused: list[Tensor], made: list[Tensor]) -> Tensor:
        if not made:
            return x
        source = torch.cat([*reused, *made], 1) if self.unit.dense and len(reused) + len(made) > 1 else made[-1]
        return self.activation(source) if self.unit.residual else source

    def _activated(self, made: Tensor) -> Tensor:
        return made if self.unit.residual else self.activation(made)

    def _halves(self, x: Tensor) -> Tensor:
        """Let every convolution compute one half of its output and reuse the second half of its input as the other."""
        joined = x
        for number, step in enumerate(self.steps):
            new = step(self.activation(joined) if number else joined)
            joined = torch.cat([self.pool(joined[:, -self.passed_on :]), self._activated(new)], 1)
        return joined

    def extra_repr(self) -> str:
        """The text shown by `print(model)`."""
        return f"reused={self.unit.reused!r}"


class ReusingBlock(nn.Module):
    """A residual block with feature reuse: y = a([b_1, b_k] + x), or y = a([pooled x, b_k]) without its shortcut."""

    def __init__(self, features: FeatureReuse, activation: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block: (n, i, h, w) to (n, C, h/s, w/s)."""
        made: Tensor = self.features(x)
        y: Tensor = self.activation(made + x if self.features.unit.residual == "sum" else made)
        return y


def reuse(model: nn.Module, units: Iterable[Unit]) -> None:
    """Insert feature reuse units into a network, in place, with random weights.

    Raises:
        ModelError: the network does not have these layers.
    """
    for unit in units:
        modules = dict(model.named_modules())
        for name in (unit.place, *(name for layer in unit.layers for name in layer), *unit.silenced):
            if name and name not in modules:
                raise ModelError(f"the network has no layer {name!r} for feature reuse: use the matching network")
        steps = []
        for (conv, norm), reads, makes in zip(unit.layers, unit.reads, unit.makes, strict=True):
            _refuse_larger(conv, modules[conv], reads, makes)
            behind = resized(modules[norm], 0, makes) if norm else None
            steps.append(NewFeatures(resized(modules[conv], reads, makes), behind))
        known = ACTIVATIONS.get(unit.activation)
        activation = known() if known else copy.deepcopy(modules[unit.activation])
        features = FeatureReuse(steps, activation, unit)
        block = ReusingBlock(features, copy.deepcopy(activation)) if unit.residual else features
        for name in unit.silenced:
            _set(model, name, nn.Identity())
        _set(model, unit.place, block.train(modules[unit.place].training))


def _refuse_larger(name: str, conv: nn.Module, reads: int, makes: int) -> None:
    """Refuse channel counts that no rewrite creates, because units may come from an untrusted file."""
    if not isinstance(conv, nn.Conv2d):
        raise ModelError(f"layer {name!r} is a {type(conv).__name__}: only an nn.Conv2d can be part of a unit")
    if not (0 < makes <= conv.out_channels and 0 < reads <= max(conv.in_channels, conv.out_channels)):
        raise ModelError(
            f"layer {name!r} maps {conv.in_channels} to {conv.out_channels} channels: in a unit it cannot map {reads} "
            f"to {makes}; the file is for another network"
        )


def resized(module: nn.Module, reads: int, makes: int) -> nn.Module:
    """Copy a convolution or batch norm with other channel counts and random weights.

    Flags, dtype, device and memory format stay. Weights are Kaiming-normal (fan out), biases zero, norms the identity.

    >>> resized(nn.Conv2d(8, 8, 3, stride=2, bias=False), 4, 6)
    Conv2d(4, 6, kernel_size=(3, 3), stride=(2, 2), bias=False)
    """
    new = copy.deepcopy(module)
    if isinstance(new, nn.Conv2d):
        new.in_channels, new.out_channels = reads, makes
    else:
        new.num_features = makes  # type: ignore[assignment]
    for store in (new._parameters, new._buffers):
        for name, old in store.items():
            if old is None or old.dim() == 0:
                continue
            tensor = old.detach().new_zeros(makes, *([reads, *old.shape[2:]] if old.dim() > 1 else []))
            if old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last):
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            if isinstance(old, nn.Parameter):
                tensor = nn.Parameter(tensor, requires_grad=old.requires_grad)
            store[name] = tensor  # type: ignore[assignment]
    if isinstance(new, nn.Conv2d):
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    else:
        new.reset_parameters()  # type: ignore[operator]
    return new


def _set(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def units_in(model: nn.Module) -> list[Unit]:
    """List the feature reuse units in a network."""
    return [module.unit for module in model.modules() if isinstance(module, FeatureReuse)]


def reusing_of(model: nn.Module) -> list[dict[str, Any]]:
    """Return a JSON description of the feature reuse units in a network."""
    return [asdict(unit) for unit in units_in(model)]


def reuse_as(model: nn.Module, described: Sequence[Mapping[str, Any]]) -> None:
    """Apply a description by `reusing_of` to another copy of the network, in place.

    Raises:
        ModelError: the network does not have these layers.
    """
    reuse(model, [_unit(one) for one in described])


def _unit(described: Mapping[str, Any]) -> Unit:
    lists = {name: tuple(described[name]) for name in ("reads", "makes", "silenced")}
    layers = tuple((str(conv), str(norm)) for conv, norm in described["layers"])
    return Unit(**(dict(described) | lists | {"layers": layers}))
