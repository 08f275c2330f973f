"""Hollow runs: outputs of the right shape whose numbers nobody computed.

Tracing needs shapes, not numbers.  An operation that is skipped gives a tensor with whatever was in memory, but fails
where the real one would fail: a trial cut looks for exactly that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

SKIPPED = {"convolution", "native_batch_norm", "mm", "addmm", "bmm", "baddbmm"}
"""Operations that are never computed in a hollow run."""

ELEMENTWISE = """relu relu_ hardtanh hardtanh_ hardswish hardswish_ silu silu_ sigmoid sigmoid_ hardsigmoid hardsigmoid_
    gelu leaky_relu leaky_relu_ elu elu_ mish mish_ tanh tanh_ add add_ mul mul_ sub sub_ div div_
    sqrt rsqrt""".split()

SKIPPED_IF_HOLLOW = {*ELEMENTWISE, "cat", "mean", "var", "max_pool2d_with_indices", "avg_pool2d",
                     "_adaptive_avg_pool2d", "upsample_nearest2d", "upsample_bilinear2d"}  # fmt: skip
"""Operations that are not computed from numbers that were not computed."""

NEED_NUMBERS = """_local_scalar_dense is_nonzero nonzero equal masked_select _unique2 unique_dim bernoulli multinomial
    poisson binomial gather scatter scatter_ index_put index_put_ index_add index_add_ repeat_interleave histc bincount
    embedding""".split()
"""Operations that let numbers steer the program, or that fail on numbers that make no sense."""

SMALL = 4096
"""Numbers in a tensor that costs nothing to fill."""


def needs_numbers(name: str, args: tuple[Any, ...], hollow: list[Tensor]) -> bool:
    """Ask whether an operation on hollow tensors cannot be run without their numbers."""
    if name in ("index", "index_select"):
        tables = args[1] if name == "index" else args[2:]
        return any(table is tensor for table in tables for tensor in hollow) or (name == "index" and _has_mask(args))
    return name in NEED_NUMBERS or (name.lstrip("_").startswith("linalg_") and name != "linalg_vector_norm")


def _has_mask(args: tuple[Any, ...]) -> bool:
    return any(isinstance(table, Tensor) and table.dtype == torch.bool for table in args[1])


def stand_in(name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Give what an operation would return, without computing it."""
    if name == "convolution":
        x, weight, bias, stride, padding, dilation, transposed, _, groups = args
        _check_convolution(x, weight, bias, groups, transposed)
        if not transposed:
            return _convolved(x, weight, stride, padding, dilation)
    if "batch_norm" in name:
        return _normalised(*args, **kwargs)
    if name in ELEMENTWISE:
        found = _elementwise(name, args)
        if found is not None:
            return found
    if name == "mean" and len(args) == 3 and not kwargs and args[0].is_floating_point():  # PyTorch's own takes 1 ms
        return _averaged(*args)
    if name == "var" and len(args) == 2 and args[0].is_floating_point():
        return _averaged(*args, keep=kwargs.get("keepdim", False))
    shapes = func(*tree_map_only(Tensor, lambda t: t.to("meta"), args), **kwargs)
    return tree_map_only(Tensor, lambda t: blank(t.shape, t.dtype), shapes)


def blank(shape: torch.Size | tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Make a tensor whose numbers do not matter.

    >>> blank((2, 3), torch.float16).tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    empty = torch.empty(shape, dtype=dtype)
    return empty.zero_() if empty.numel() < SMALL else empty


def _averaged(x: Tensor, dims: list[int] | None, keep: bool) -> Tensor:
    gone = {d % x.dim() for d in dims or range(x.dim())}
    sizes = [1 if d in gone else size for d, size in enumerate(x.shape) if keep or d not in gone]
    return blank(tuple(sizes), x.dtype)


def _elementwise(name: str, args: tuple[Any, ...]) -> Tensor | None:
    tensors = [t for t in args[:2] if isinstance(t, Tensor)]
    first = tensors[0]
    if not first.is_floating_point() or any(t.dtype != first.dtype for t in tensors):
        return None  # the type of the result is not obvious
    shapes = [t.shape for t in tensors]
    try:
        shape = torch.broadcast_shapes(*shapes) if shapes[1:] and shapes[0] != shapes[1] else shapes[0]
    except RuntimeError:
        shape = None
    if shape is None or (name.endswith("_") and shape != first.shape):
        raise RuntimeError(f"{name} of shapes {' and '.join(str(tuple(s)) for s in shapes)}")
    return first if name.endswith("_") else blank(shape, first.dtype)


def _check_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, transposed: bool) -> None:
    # PyTorch's own computation of the shape does not look at the channels of a transposed convolution.
    read, made = (weight.size(0), weight.size(1) * groups) if transposed else (weight.size(1) * groups, weight.size(0))
    if x.size(1) != read or weight.size(0) % groups:
        raise RuntimeError(
            f"a convolution with weight {tuple(weight.shape)} and {groups} groups got {x.size(1)} channels"
        )
    if bias is not None and bias.numel() != made:
        raise RuntimeError(f"a convolution to {made} channels got a bias for {bias.numel()}")
    if x.dtype != weight.dtype:
        raise RuntimeError(f"a convolution with weight of {weight.dtype} got an input of {x.dtype}")


def _convolved(x: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int]) -> Tensor:
    space = range(x.dim() - 2)
    s, p, d = ([given[0]] * len(space) if len(given) == 1 else given for given in (stride, padding, dilation))
    spans = [x.size(i + 2) + 2 * p[i] - d[i] * (weight.size(i + 2) - 1) for i in space]
    if min(spans, default=1) < 1:
        raise RuntimeError(f"a kernel of {tuple(weight.shape[2:])} does not fit on {tuple(x.shape[2:])}")
    return blank((x.size(0), weight.size(0), *((spans[i] - 1) // s[i] + 1 for i in space)), x.dtype)


def _normalised(x: Tensor, *parameters: Any, **_: Any) -> tuple[Tensor, Tensor, Tensor]:
    for tensor in parameters[:4]:
        if tensor is not None and tensor.numel() != x.size(1):
            raise RuntimeError(f"a batch norm for {tensor.numel()} channels got {x.size(1)}")
    return blank(x.shape, x.dtype), x.new_empty(0), x.new_empty(0)
