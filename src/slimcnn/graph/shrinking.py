"""Remove positions from a network's tensors, and update the size attributes of its modules."""

from __future__ import annotations

import copy
from collections.abc import Container, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.graph.channels import layer_of
from slimcnn.graph.fast.module_tree import named_modules
from slimcnn.layers.channel_pad import ChannelPad
from slimcnn.layers.emptied import make_empty

Kept = Mapping[str, Mapping[int, Tensor]]
"""Tensor name → axis → kept positions, ascending; shape (blocks, positions) where an axis has blocks."""

KeptCounts = Mapping[tuple[str, str, int | None], int]
"""(Module, attribute, index in it) → number of channels."""

MARKER = "_slimcnn_sizes"
"""Attribute of a pruned module that lists its size attributes beyond those in SIZES."""

SIZES: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.modules.conv._ConvNd, ("in_channels", "out_channels", "groups")),
    (nn.Linear, ("in_features", "out_features")),
    (nn.modules.batchnorm._NormBase, ("num_features",)),
    (nn.GroupNorm, ("num_groups", "num_channels")),
    (nn.LayerNorm, ("normalized_shape",)),
    (nn.PReLU, ("num_parameters",)),
    (ChannelPad, ("front", "back")),
)
"""Size attributes of PyTorch's modules, which pruning must update."""


def sizes(module: nn.Module) -> dict[str, Any]:
    """Return the size attributes of a module.

    >>> sizes(nn.Conv2d(3, 8, 1))
    {'in_channels': 3, 'out_channels': 8, 'groups': 1}
    """
    names = next((names for kind, names in SIZES if isinstance(module, kind)), ())
    found = {name: getattr(module, name) for name in names if hasattr(module, name)}
    return found | {name: getattr(module, name) for name in vars(module).get(MARKER, ())}


def recount(module: nn.Module, name: str, index: int | None, count: int) -> None:
    """Set a size attribute of a module, or one entry of a list or tuple, and remember that it is a size.

    >>> module = nn.Module()
    >>> module.widths = (8, 8)
    >>> recount(module, "widths", 1, 5)
    >>> module.widths, sizes(module)
    ((8, 5), {'widths': (8, 5)})
    """
    if index is None:
        setattr(module, name, count)
    else:
        before = getattr(module, name)
        setattr(module, name, type(before)([*before[:index], count, *before[index + 1 :]]))
    if name not in sizes(module):
        setattr(module, MARKER, (*vars(module).get(MARKER, ()), name))


def shrink(model: nn.Module, kept: Kept, counts: KeptCounts, unset: Container[str] = ()) -> None:
    """Reduce every tensor of `model` to its kept positions, in place; shared tensors and flags are preserved.

    `counts` holds the new channel counts of size attributes. Tensors named in `unset` are allocated without values.
    Call it on a copy: the user's model is never changed.
    """
    done: dict[int, tuple[Tensor, Tensor]] = {}
    changed = set()
    modules = named_modules(model)
    for prefix, module in modules:
        for store, name, tensor in _tensors(module):
            full_name = f"{prefix}.{name}" if prefix else name
            axes = kept.get(full_name)
            if axes:
                done[id(tensor)] = (tensor, (cut_without_values if full_name in unset else cut)(tensor, axes))
            if id(tensor) in done:
                store[name] = done[id(tensor)][1]
                changed.add(layer_of(full_name))
    for prefix, module in modules:
        if prefix in changed:
            describe(module)
            make_empty(module)
    named = dict(modules)
    for (prefix, name, index), count in counts.items():
        recount(named[prefix], name, index, count)


def _tensors(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    for store in (module._parameters, module._buffers):
        for name, tensor in list(store.items()):
            if tensor is not None:
                yield store, name, tensor


def cut(tensor: Tensor, axes: Mapping[int, Tensor]) -> Tensor:
    """Select positions of some axes; memory layout, flags and attributes of a parameter are preserved."""
    new = tensor.detach()
    for axis, positions in sorted(axes.items(), key=lambda item: -item[1].dim()):  # blocks first, while complete
        positions = positions.to(new.device)
        new = new.index_select(axis, positions) if positions.dim() == 1 else _cut_blocks(new, positions)
    return _like(tensor, new)


def cut_without_values(tensor: Tensor, axes: Mapping[int, Tensor]) -> Tensor:
    """Return a tensor like that of `cut`, whose memory is allocated but not even touched."""
    shape = list(tensor.shape)
    for axis, positions in axes.items():
        shape[axis] = positions.shape[-1]
    return _like(tensor, torch.empty(shape, dtype=tensor.dtype, device=tensor.device))


def _like(tensor: Tensor, new: Tensor) -> Tensor:
    """Give a tensor the memory layout, and the flags and attributes of a parameter, of another one."""
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    if layout is not None and tensor.is_contiguous(memory_format=layout) and not tensor.is_contiguous():
        new = new.contiguous(memory_format=layout)
    if isinstance(tensor, nn.Parameter):
        new = nn.Parameter(new, requires_grad=tensor.requires_grad)
        vars(new).update(vars(tensor))
    return new


def _cut_blocks(weight: Tensor, positions: Tensor) -> Tensor:
    """Select, for each group of a grouped convolution's weight (out, in, ...), its positions of the input axis."""
    parts = zip(weight.chunk(len(positions)), positions, strict=True)
    return torch.cat([part.index_select(1, kept) for part, kept in parts])


def describe(module: nn.Module) -> None:
    """Set a module's size attributes from the shapes of its tensors."""
    weight = module._parameters.get("weight")
    if weight is None:
        weight = module._parameters.get("weight_v")
    if weight is None and "parametrizations" in module._modules:
        # Not module.weight: in training mode that would run the parametrization, which may change its state.
        weight = vars(module.parametrizations["weight"])["_parameters"].get("original")  # type: ignore[index]
    if weight is None:
        mean = module._buffers.get("running_mean")
        if isinstance(module, nn.modules.batchnorm._NormBase) and mean is not None:
            module.num_features = len(mean)
        return
    if isinstance(module, nn.modules.conv._ConvNd):
        _describe_convolution(module, weight.shape)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        module.num_features = len(weight)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = len(weight)
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(weight)


def _describe_convolution(module: nn.modules.conv._ConvNd, shape: torch.Size) -> None:
    first, per_group = shape[0], shape[1]
    if module.transposed:
        if module.in_channels == module.groups and module.groups > 1 and per_group == 1:
            module.groups = first
        module.in_channels, module.out_channels = first, per_group * module.groups
        return
    if module.groups > 1 and per_group == 1 and module.in_channels == module.groups:
        module.groups = first // (module.out_channels // module.groups)
    module.in_channels, module.out_channels = per_group * module.groups, first


def contradicts(module: nn.Module) -> bool:
    """Return whether the size attributes of a module contradict the shapes of its tensors or each other.

    >>> conv = nn.Conv2d(3, 8, 1)
    >>> before = contradicts(conv)
    >>> conv.in_channels = 0
    >>> before, contradicts(conv)
    (False, True)
    """
    stated = sizes(module)
    if isinstance(module, nn.modules.conv._ConvNd):
        widths, groups = (module.in_channels, module.out_channels), module.groups
        if any(width % groups for width in widths) or min(widths) < 1 < groups if groups else any(widths):
            return True
    if isinstance(module, nn.GroupNorm) and (module.num_groups < 1 or module.num_channels % module.num_groups):
        return True
    described = copy.copy(module)
    describe(described)
    return sizes(described) != stated
