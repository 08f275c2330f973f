"""A judge of pruned networks that shares no code with any library: every parameter value encodes its position.

Before pruning, all parameters are filled with values that are unique within their tensor and encode their position. After
pruning, the remaining values show which positions survived. The small network must compute the same function as the
original with all other positions set to zero, in float64, in eval mode, on normal input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest relative error that counts as equal; float32 only if a network's code converts to it."""

WIDE, NARROW = 27, 23
"""Bits of an encoded position: in log-uniform weights, and in uniform values."""


@dataclass(frozen=True)
class Code:
    """How a tensor's values encode their positions: log-uniform up to `scale`, or uniform in `low` to `low` + 1."""

    scale: float = 0.0
    low: float = 0.0

    def numbers(self, count: int) -> Tensor:
        """Return the values of a tensor with `count` elements, in order."""
        if self.scale:
            code = _mixed(torch.arange(count), WIDE)
            magnitude = ((code >> 1) + (119 << 23)).to(torch.int32).view(torch.float32)  # 2^-8 to 1
            numbers: Tensor = magnitude * (1 - 2 * (code & 1)) * self.scale
        else:
            numbers = _mixed(torch.arange(count), NARROW) / 2**NARROW + self.low
        return numbers

    def positions(self, numbers: Tensor) -> Tensor:
        """Return the positions of values; arbitrary for values without this code."""
        numbers = numbers.detach().flatten().float()
        if self.scale:
            magnitude = (numbers.abs() / self.scale).view(torch.int32).long() - (119 << 23)
            return _unmixed(((magnitude << 1) | (numbers < 0)) & (2**WIDE - 1), WIDE)
        return _unmixed(((numbers - self.low) * 2**NARROW).round().long() & (2**NARROW - 1), NARROW)


ODD = 0x2C9277B5
"""Multiplication by an odd number permutes the integers below 2^bits."""


def _mixed(x: Tensor, bits: int) -> Tensor:
    once: Tensor = (x * ODD) & (2**bits - 1)
    halves = once ^ (once >> (bits + 1) // 2)  # its own inverse
    twice: Tensor = (halves * ODD) & (2**bits - 1)
    return twice


def _unmixed(x: Tensor, bits: int) -> Tensor:
    back = pow(ODD, -1, 2**bits)
    once: Tensor = (x * back) & (2**bits - 1)
    halves = once ^ (once >> (bits + 1) // 2)
    twice: Tensor = (halves * back) & (2**bits - 1)
    return twice


@torch.no_grad()
def address(model: nn.Module) -> dict[str, Code]:
    """Fill a network's parameters with values that encode their position, and randomize running statistics.

    Weights keep their standard deviation. Constants become values around 1 (if not zero, like scales) or around 0, so
    that no zero or one hides an error.
    """
    codes = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        codes[name] = _code_for(parameter)
        parameter.copy_(codes[name].numbers(parameter.numel()).view(parameter.shape))
    generator = torch.Generator().manual_seed(1)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            low = 0.5 if name.endswith("var") else -0.5
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + low)
    return codes


def _code_for(parameter: Tensor) -> Code:
    numbers = parameter.detach().float()
    constant = bool((numbers == numbers.flatten()[0]).all())
    if (constant and bool(numbers.flatten()[0])) or parameter.numel() == 1:
        return Code(low=0.5)
    if constant or parameter.dim() < 2:
        return Code(low=-0.5)
    return Code(scale=2.0 ** round(math.log2(float(numbers.std()) / 0.3)))


@torch.no_grad()
def keep_survivors(original: nn.Module, small: nn.Module, codes: dict[str, Code]) -> None:
    """Set every value of the original that is not in the small network to zero.

    Raises:
        ValueError: the small network holds a value that is not in the original.
    """
    left = dict(small.named_parameters(remove_duplicate=False))
    for name, parameter in original.named_parameters(remove_duplicate=False):
        keep = torch.zeros(parameter.numel(), dtype=torch.bool)
        if name in left:
            at = codes[name].positions(left[name])
            known = at < len(keep)
            if not bool((parameter.flatten()[at * known] == left[name].flatten())[known].all() and known.all()):
                raise ValueError(f"{name} holds values that are not in the original")
            keep[at] = True
        parameter.mul_(keep.view(parameter.shape))


@dataclass(frozen=True)
class Judgment:
    """The difference between a small and a masked network."""

    error: float
    """Largest difference of any output, relative to the largest output."""
    change: float
    """The same between the original and the masked network: if it is zero, nothing was tested."""
    dtype: str
    note: str = ""

    @property
    def equal(self) -> bool:
        return self.error < TOLERANCE[getattr(torch, self.dtype)]


def judge(original: nn.Module, small: nn.Module, codes: dict[str, Code], example: Any) -> Judgment:
    """Compare the small network with the masked original; both networks are modified.

    Exceptions of a network that does not run are passed on.
    """
    for dtype in TOLERANCE:
        inputs = _normal_like(example, dtype)
        try:
            before = _run(original, inputs, dtype)
        except RuntimeError:  # its code converts to float32
            if dtype is torch.float32:
                raise
            continue
        keep_survivors(original, small, codes)
        expected, found = _run(original, inputs, dtype), _run(small, inputs, dtype)
        finite = all(bool(torch.isfinite(t).all()) for t in expected)
        return Judgment(
            _distance(expected, found),
            _distance(expected, before),
            str(dtype).removeprefix("torch."),
            "" if finite else "the masked network's output is not finite",
        )
    raise AssertionError("unreachable")


def error_at(masked: nn.Module, small: nn.Module, example: Any, dtype: str) -> float:
    """Compare the networks that `judge` left behind on another example, such as a larger image; return the error."""
    kind = getattr(torch, dtype)
    inputs = _normal_like(example, kind)
    return _distance(_run(masked, inputs, kind), _run(small, inputs, kind))


def _normal_like(example: Any, dtype: torch.dtype) -> Any:
    generator = torch.Generator().manual_seed(0)
    return tree_map_only(
        Tensor, lambda t: torch.randn(t.shape, generator=generator, dtype=torch.float64).to(dtype), example
    )


@torch.no_grad()
def _run(model: nn.Module, inputs: Any, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    output = model.to(dtype).eval()(inputs)
    found = [leaf.double() for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    if not found:
        raise ValueError(f"no tensors in the output, a {type(output).__name__}: nothing can be compared")
    return found


def _distance(expected: list[Tensor], found: list[Tensor]) -> float:
    if [t.shape for t in expected] != [t.shape for t in found]:
        return math.inf
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if a.numel():
            scale = float(a.abs().max()) or 1.0
            distance = float((a - b).abs().max()) / scale
            worst = max(worst, distance if math.isfinite(distance) else math.inf)
    return worst
