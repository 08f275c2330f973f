"""Shape-only runs: outputs are allocated, not computed.

Tracing needs shapes, not values. A skipped operation returns uninitialized memory, but fails where the real operation
would fail, since trial cuts detect these failures.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from slimcnn.graph.operations import Operation, Values

SMALL = 4096
"""Tensors with fewer elements are filled with zeros, which takes almost no time."""


def values_of(op: Operation, args: tuple[Any, ...], uncomputed: list[Tensor]) -> Values:
    """Return how to treat an operation, some of whose inputs may not have been computed."""
    return op.values(args, uncomputed) if callable(op.values) else op.values


def stand_in(op: Operation, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Allocate the outputs of an operation without computing them."""
    found = op.shape(args, kwargs) if op.shape is not None else None
    if found is not None:
        return found
    shapes = func(*tree_map_only(Tensor, lambda t: t.to("meta"), args), **kwargs)
    return tree_map_only(Tensor, lambda t: blank(t.shape, t.dtype), shapes)


def blank(shape: torch.Size | tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Allocate a tensor whose values are not used.

    >>> blank((2, 3), torch.float16).tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    empty = torch.empty(shape, dtype=dtype)
    return empty.zero_() if empty.numel() < SMALL else empty


def without_values(tensors: Iterable[tuple[str, Tensor]], kept: Container[str]) -> frozenset[str]:
    """Return the names of the large weights that change in a trial cut: its run needs their shapes only.

    >>> sorted(without_values([("large", torch.ones(64, 64)), ("small", torch.ones(4, 4))], {"large", "small"}))
    ['large']
    """
    large = ((name, tensor) for name, tensor in tensors if name in kept and tensor.dim() > 1)
    return frozenset(name for name, tensor in large if tensor.is_floating_point() and tensor.numel() >= SMALL)


def indices_needed(args: tuple[Any, ...], uncomputed: list[Tensor]) -> Values:
    """Return how to treat `index` and `index_select`: values matter for masks and for indices not yet computed."""
    indices = args[1] if isinstance(args[1], list | tuple) else args[2:]
    masks = isinstance(args[1], list | tuple) and any(
        isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
    )
    return "needed" if masks or any(index is tensor for index in indices for tensor in uncomputed) else "computed"


def boxes_needed(args: tuple[Any, ...], uncomputed: list[Tensor]) -> Values:
    """Return how to treat operations that read regions of an image: uninitialized boxes may be huge."""
    return "needed" if any(args[1] is tensor for tensor in uncomputed) else "computed"


def averaged(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Allocate a mean over some dimensions; PyTorch's meta kernel takes 1 ms."""
    if len(args) != 3 or kwargs or not args[0].is_floating_point():
        return None
    return _reduced(args[0], args[1], args[2])


def varied(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Allocate a variance over some dimensions."""
    if len(args) != 2 or not args[0].is_floating_point():
        return None
    return _reduced(args[0], args[1], kwargs.get("keepdim", False))


def _reduced(x: Tensor, dims: list[int] | None, keep: bool) -> Tensor:
    gone = {d % x.dim() for d in dims or range(x.dim())}
    sizes = [1 if d in gone else size for d, size in enumerate(x.shape) if keep or d not in gone]
    return blank(tuple(sizes), x.dtype)


def elementwise(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Allocate the result of a pointwise operation; None if its dtype is not obvious."""
    tensors = [t for t in args[:2] if isinstance(t, Tensor)]
    first = tensors[0]
    if not first.is_floating_point() or any(t.dtype != first.dtype for t in tensors):
        return None
    shape = _broadcast(tensors)
    return blank(shape, first.dtype)


def elementwise_in_place(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Return the first argument of an in-place pointwise operation."""
    tensors = [t for t in args[:2] if isinstance(t, Tensor)]
    first = tensors[0]
    if not first.is_floating_point() or any(t.dtype != first.dtype for t in tensors):
        return None
    if _broadcast(tensors) != first.shape:
        raise RuntimeError(
            f"an in-place operation on shape {tuple(first.shape)} would produce shape {tuple(_broadcast(tensors))}"
        )
    return first


def _broadcast(tensors: list[Tensor]) -> torch.Size:
    shapes = [t.shape for t in tensors]
    if len(shapes) == 1 or shapes[0] == shapes[1]:
        return shapes[0]
    try:
        return torch.Size(torch.broadcast_shapes(*shapes))
    except RuntimeError:
        raise RuntimeError(f"shapes {' and '.join(str(tuple(s)) for s in shapes)} do not match") from None


def convolved(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Allocate the output of a convolution; None for a transposed one, left to PyTorch's meta kernel after checks."""
    x, weight, bias, stride, padding, dilation, transposed, _, groups = args
    _check_convolution(x, weight, bias, groups, transposed)
    if transposed:
        return None
    space = range(x.dim() - 2)
    s, p, d = ([given[0]] * len(space) if len(given) == 1 else given for given in (stride, padding, dilation))
    spans = [x.size(i + 2) + 2 * p[i] - d[i] * (weight.size(i + 2) - 1) for i in space]
    if min(spans, default=1) < 1:
        raise RuntimeError(f"a kernel of size {tuple(weight.shape[2:])} does not fit on size {tuple(x.shape[2:])}")
    return blank((x.size(0), weight.size(0), *((spans[i] - 1) // s[i] + 1 for i in space)), x.dtype)


def _check_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, transposed: bool) -> None:
    # PyTorch's meta kernel does not check the channels of a transposed convolution.
    read, made = (weight.size(0), weight.size(1) * groups) if transposed else (weight.size(1) * groups, weight.size(0))
    if x.size(1) != read or weight.size(0) % groups:
        raise RuntimeError(
            f"a convolution with weight {tuple(weight.shape)} and {groups} groups got {x.size(1)} channels"
        )
    if bias is not None and bias.numel() != made:
        raise RuntimeError(f"a convolution to {made} channels got a bias for {bias.numel()} channels")
    if x.dtype != weight.dtype:
        raise RuntimeError(f"a convolution with weight dtype {weight.dtype} got input dtype {x.dtype}")


def normalized(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate the outputs of a batch norm."""
    x = args[0]
    for tensor in args[1:5]:
        if tensor is not None and tensor.numel() != x.size(1):
            raise RuntimeError(f"a batch norm for {tensor.numel()} channels got {x.size(1)}")
    return blank(x.shape, x.dtype), x.new_empty(0), x.new_empty(0)


def layer_normalized(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate the outputs of a layer norm: the result, means and deviations."""
    x, shape, *affine = args[:4]
    around = x.dim() - len(shape)
    for what in (x.shape[around:], *(tensor.shape for tensor in affine if tensor is not None)):
        if list(what) != list(shape):
            raise RuntimeError(f"a layer norm over {tuple(shape)} got {tuple(what)}")
    statistics = (*x.shape[:around], *(1 for _ in shape))
    return blank(x.shape, x.dtype), blank(statistics, x.dtype), blank(statistics, x.dtype)


def group_normalized(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate the outputs of a group norm: the result, means and deviations."""
    x, weight, bias, n, channels, _, groups = args[:7]
    if channels % groups or any(tensor is not None and tensor.numel() != channels for tensor in (weight, bias)):
        raise RuntimeError(f"a group norm of {channels} channels got {groups} groups, or other parameters")
    return blank(x.shape, x.dtype), blank((n, groups), x.dtype), blank((n, groups), x.dtype)
