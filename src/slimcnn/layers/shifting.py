"""Shift operators: each channel of an image moves by its own displacement; zeros fill in from outside.

`shift` moves by whole pixels, `interpolate` by fractions. Both are dispatcher operators (`slimcnn::shift`,
`slimcnn::interpolate`), so that the channel graph, compilers and counters see one operation with one value per channel
and no MACs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Any
from weakref import ref

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SMALL = 210_000
"""Tensor size up to which one padded copy is faster than one copy per direction."""
MOST_SLABS = 64
FEWEST_TOGETHER = 64
"""Fewest adjacent channels per copy for which copies beat a convolution in channels-last layout."""


@dataclass(frozen=True)
class Slab:
    """Channels `start`, `start + step` ... before `stop`, which share a shift: out[h, w] = in[h + dy, w + dx]."""

    start: int
    stop: int
    step: int
    dy: int
    dx: int


@dataclass(frozen=True)
class Grid:
    """The first k² m channels cover all displacements of a k x k window, m channels each."""

    kernel: int
    channels: int
    """m"""
    interleaved: bool
    """Neighboring channels have different displacements; else equal displacements are adjacent."""
    backwards: bool = False


@dataclass(eq=False)
class Moves:
    """The displacements of all channels, prepared for copying."""

    slabs: tuple[Slab, ...] | None
    """None if more than `MOST_SLABS` would be needed; then the shift runs as a depthwise convolution."""
    grid: Grid | None
    dy: tuple[int, ...]
    dx: tuple[int, ...]
    kernels: dict[Any, Tensor] = field(default_factory=dict)
    geometry: dict[tuple[int, int, int], list[tuple[int, int, int]]] = field(default_factory=dict)

    @cached_property
    def radius(self) -> int:
        """The largest displacement."""
        return max(map(abs, (*self.dy, *self.dx)), default=0)

    @cached_property
    def back(self) -> Moves:
        """The inverse moves."""
        slabs = None if self.slabs is None else tuple(replace(one, dy=-one.dy, dx=-one.dx) for one in self.slabs)
        grid = None if self.grid is None else replace(self.grid, backwards=not self.grid.backwards)
        return Moves(slabs, grid, tuple(-d for d in self.dy), tuple(-d for d in self.dx))

    def runs(self, c: int, h: int, w: int, slabs: tuple[Slab, ...]) -> list[tuple[int, int, int]]:
        """List the memory runs to copy for images (c, h, w): target offset, source offset, number of elements."""
        found = self.geometry.get((c, h, w))
        if found is None:
            found = self.geometry[c, h, w] = []
            for slab in slabs:
                offset = slab.dy * w + slab.dx
                first, last = max(slab.start * h * w, -offset), min(slab.stop * h * w, c * h * w - offset)
                found.append((first, first + offset, last - first))
        return found

    def kernel(self, like: Tensor) -> Tensor:
        """Return the depthwise kernel (c, 1, k, k) of these moves."""
        key = like.dtype, like.device
        if key not in self.kernels:
            dy, dx = (torch.tensor(d, device=like.device, dtype=like.dtype) for d in (self.dy, self.dx))
            self.kernels[key] = kernel_of(dy, dx, self.radius)
        return self.kernels[key]


def moves_of(dy: Sequence[int], dx: Sequence[int]) -> Moves:
    """Group channels for copying: runs of equal displacements, or the repeating order of a grouped shift.

    >>> moves_of([0, 0, 1, 1], [0, 0, 0, 0]).slabs
    (Slab(start=0, stop=2, step=1, dy=0, dx=0), Slab(start=2, stop=4, step=1, dy=1, dx=0))
    >>> [(slab.start, slab.step) for slab in moves_of([-1, 0, 1] * 30, [0] * 90).slabs]
    [(0, 3), (1, 3), (2, 3)]
    """
    pairs = list(zip(dy, dx, strict=True))
    runs, at = [], 0
    for (y, x), same in groupby(pairs):
        size = len(list(same))
        runs.append(Slab(at, at + size, 1, y, x))
        at += size
    period = next((p for p in range(2, MOST_SLABS) if len(runs) > p + 1 and _repeats(pairs, p)), 0)
    if period:
        whole = len(pairs) // period * period
        runs = [Slab(i, whole, period, *pairs[i]) for i in range(period)]
        runs += [Slab(whole, len(pairs), 1, 0, 0)] if whole < len(pairs) else []
    return Moves(tuple(runs) if len(runs) <= MOST_SLABS else None, _grid_of(runs), tuple(dy), tuple(dx))


def _repeats(pairs: list[tuple[int, int]], period: int) -> bool:
    whole = len(pairs) // period * period
    return pairs[:whole] == pairs[:period] * (whole // period) and not any(y or x for y, x in pairs[whole:])


def _grid_of(slabs: list[Slab]) -> Grid | None:
    for kernel in (3, 5, 7):
        window, rest = slabs[: kernel**2], slabs[kernel**2 :]
        sizes = {len(range(one.start, one.stop, one.step)) for one in window}
        steps = {one.step for one in window}
        half = kernel // 2
        wanted = [(y, x) for y in range(-half, half + 1) for x in range(-half, half + 1)]
        alike = len(sizes) == 1 and steps in ({1}, {kernel**2}) and all(not (one.dy or one.dx) for one in rest)
        if alike and [(one.dy, one.dx) for one in window] == wanted:
            return Grid(kernel, sizes.pop(), steps != {1})
    return None


_KNOWN: dict[int, tuple[ref[Tensor], ref[Tensor], tuple[int, int], Moves]] = {}
"""Keyed by the identity of dy while it lives. A lookup in a WeakKeyDictionary takes four times as long."""


def _moves(dy: Tensor, dx: Tensor) -> Moves:
    """Return the moves for these displacements, cached until the tensors change."""
    if dy.is_inference() or dx.is_inference():  # inference tensors have no version counter
        return _moves_of_bytes(_bytes(dy), _bytes(dx))
    versions, name = (dy._version, dx._version), id(dy)
    found = _KNOWN.get(name)
    if found is not None and found[0]() is dy and found[1]() is dx and found[2] == versions:
        return found[3]
    moves = _moves_of_bytes(_bytes(dy), _bytes(dx))
    _KNOWN[name] = ref(dy, lambda _: _forget(name)), ref(dx), versions, moves
    return moves


def _forget(name: int) -> None:
    _KNOWN.pop(name, None)


def _bytes(displacements: Tensor) -> bytes:
    return displacements.cpu().numpy().astype(np.int64).tobytes()


@lru_cache(maxsize=1024)
def _moves_of_bytes(dy: bytes, dx: bytes) -> Moves:
    """Return the moves by value: learned displacements are rounded in every batch and rarely change."""
    return moves_of(*(np.frombuffer(d, np.int64).tolist() for d in (dy, dx)))


# --- by whole pixels --------------------------------------------------------------------------------------------------


def shift(x: Tensor, dy: Tensor, dx: Tensor, stride: int = 1) -> Tensor:
    """Move channels by whole pixels: out[n, c, h, w] = x[n, c, s h + dy_c, s w + dx_c], 0 outside the image.

    ``(n, c, h, w)`` to ``(n, c, ceil(h / s), ceil(w / s))``; `dy` and `dx` are integer tensors (c,).

    >>> shift(torch.arange(4.).view(1, 1, 2, 2), torch.tensor([1]), torch.tensor([0]))[0, 0].tolist()
    [[2.0, 3.0], [0.0, 0.0]]
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return _Shift.apply(x, dy, dx, stride)  # type: ignore[no-any-return]
    if _can_skip_dispatcher(x):
        return _shift(x, dy, dx, stride)
    return torch.ops.slimcnn.shift(x, dy, dx, stride)  # type: ignore[no-any-return]


def _can_skip_dispatcher(x: Tensor) -> bool:
    """Return whether no mode, subclass or compiler needs the dispatcher call, which costs some microseconds."""
    watched = torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack()
    return not watched and type(x) is Tensor and not torch.compiler.is_compiling()


class _Shift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dy: Tensor, dx: Tensor, stride: int) -> Tensor:
        ctx.displacements, ctx.geometry = (dy, dx), (stride, x.shape[2], x.shape[3])
        return torch.ops.slimcnn.shift(x, dy, dx, stride)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return torch.ops.slimcnn.shift_back(gradient, *ctx.displacements, *ctx.geometry), None, None, None


def _shift(x: Tensor, dy: Tensor, dx: Tensor, stride: int) -> Tensor:
    return _moved(x, _moves(dy, dx), stride)


def _shift_back(gradient: Tensor, dy: Tensor, dx: Tensor, stride: int, height: int, width: int) -> Tensor:
    moves = _moves(dy, dx)
    if stride == 1:
        return _moved(gradient, moves.back, 1)
    if moves.slabs is None:
        kernel, spare = moves.kernel(gradient), [(size - 1) % stride for size in (height, width)]
        return F.conv_transpose2d(gradient, kernel, None, stride, moves.radius, spare, groups=len(kernel))
    whole = gradient.new_zeros(*gradient.shape[:2], height, width)
    for slab in moves.slabs:
        here, there = _windows(slab, (height, width), gradient.shape[2:], stride)
        whole[here].copy_(gradient[there])
    return whole


def _moved(x: Tensor, moves: Moves, stride: int) -> Tensor:
    n, c, h, w = x.shape
    slabs = moves.slabs
    if not c:
        return _strided(x, stride)
    if slabs is None or _too_short(x, moves, len(slabs)):
        kernel = moves.kernel(x)
        return F.conv2d(x, kernel, None, stride, moves.radius, groups=len(kernel))
    if x.is_contiguous() and moves.grid is not None and x.numel() <= SMALL:
        return _as_a_view(x, moves.grid, stride)
    if x.is_contiguous() and stride == 1 and min(h, w) > moves.radius:
        return _in_long_runs(x, moves, slabs)
    size = ceil_div(h, stride), ceil_div(w, stride)
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    out = torch.zeros(n, c, *size, dtype=x.dtype, device=x.device).contiguous(memory_format=layout)
    for slab in slabs:
        there, here = _windows(slab, (h, w), size, stride)
        out[here].copy_(x[there])
    return out


def _too_short(x: Tensor, moves: Moves, slabs: int) -> bool:
    """Return whether the copies would be so small that a convolution is faster."""
    if x.is_contiguous():
        return moves.grid is None and x.numel() <= SMALL // 2
    return x.shape[1] < FEWEST_TOGETHER * slabs


def _in_long_runs(x: Tensor, moves: Moves, slabs: tuple[Slab, ...]) -> Tensor:
    """Move whole slabs as runs of memory, then zero what has wrapped around from neighboring rows."""
    n, c, h, w = x.shape
    out = torch.empty_like(x)
    if all(slab.step == 1 for slab in slabs):
        source, target = x.view(n, c * h * w), out.view(n, c * h * w)
        for first, begin, size in moves.runs(c, h, w, slabs):
            target.narrow(1, first, size).copy_(source.narrow(1, begin, size))
    else:
        source, target = x.view(n, c, h * w), out.view(n, c, h * w)
        for slab in slabs:
            offset = slab.dy * w + slab.dx
            first, size = max(0, -offset), h * w - abs(offset)
            mine, theirs = (tensor[:, slab.start : slab.stop : slab.step] for tensor in (target, source))
            mine.narrow(2, first, size).copy_(theirs.narrow(2, first + offset, size))
    if moves.grid is None:
        for slab in slabs:
            part = out[:, slab.start : slab.stop : slab.step]
            _clear(part, 2, slab.dy)
            _clear(part, 3, slab.dx)
    else:
        _clear_grid(out, moves.grid)
    return out


def _clear(part: Tensor, axis: int, d: int) -> None:
    """Zero the border that a move by `d` along an axis fills from outside the image."""
    if d:
        part.narrow(axis, 0 if d < 0 else part.shape[axis] - d, abs(d)).zero_()


def _clear_grid(out: Tensor, grid: Grid) -> None:
    """Zero these borders for a grid, all channels with the same displacement along an axis at once."""
    n, _, h, w = out.shape
    k, m = grid.kernel, grid.channels
    window = out[:, : k * k * m].view(n, *((m, k, k) if grid.interleaved else (k, k, m)), h, w)
    first = 2 if grid.interleaved else 1
    for place in range(k):
        d = place - k // 2
        d = -d if grid.backwards else d
        _clear(window.select(first, place), 3, d)
        _clear(window.select(first + 1, place), 4, d)


def _as_a_view(x: Tensor, grid: Grid, stride: int) -> Tensor:
    """Shift with one copy: the moved channels are a strided view of the padded image."""
    n, c, h, w = x.shape
    k, m, half = grid.kernel, grid.channels, grid.kernel // 2
    padded = F.pad(x, (half, half, half, half))
    row = w + 2 * half
    plane = (h + 2 * half) * row
    down, right = (-row, -1) if grid.backwards else (row, 1)
    start = (k - 1) * (row + 1) if grid.backwards else 0
    size = ceil_div(h, stride), ceil_div(w, stride)
    if grid.interleaved:
        shape, strides = (m, k, k), (k * k * plane, k * plane + down, plane + right)
    else:
        shape, strides = (k, k, m), (k * m * plane + down, m * plane + right, plane)
    view = padded.as_strided((n, *shape, *size), (c * plane, *strides, stride * row, stride), start)
    moved = k * k * m
    if moved == c:
        return view.reshape(n, c, *size)
    out = x.new_empty(n, c, *size)
    out[:, :moved].view(n, *shape, *size).copy_(view)
    out[:, moved:].copy_(x[:, moved:, ::stride, ::stride])
    return out


Window = tuple[slice, slice, slice, slice]


def _windows(slab: Slab, size: Sequence[int], made: Sequence[int], stride: int) -> tuple[Window, Window]:
    """Return the slices of a slab to read from the image and to write in the output."""
    channels = slice(slab.start, slab.stop, slab.step)
    read, written = [], []
    for d, whole, out in zip((slab.dy, slab.dx), size, made, strict=True):
        first = max(0, ceil_div(-d, stride))
        last = max(first, min(out, (whole - 1 - d) // stride + 1))
        written.append(slice(first, last))
        begin = first * stride + d
        read.append(slice(begin, begin + max(0, (last - first - 1) * stride + 1) if last > first else begin, stride))
    return (slice(None), channels, *read), (slice(None), channels, *written)  # type: ignore[return-value]


def ceil_div(a: int, b: int) -> int:
    """Return a / b, rounded up."""
    return -(-a // b)


# --- by fractions of pixels -------------------------------------------------------------------------------------------


def kernel_of(dy: Tensor, dx: Tensor, radius: int) -> Tensor:
    """Build the depthwise kernel (c, 1, 2r + 1, 2r + 1) that samples bilinearly at (dy, dx); differentiable.

    k[c, i, j] = b(dy_c, i) b(dx_c, j) with b(d, i) = 1 - f at i = floor(d), f at floor(d) + 1, f = d - floor(d).

    >>> kernel_of(torch.tensor([0.25]), torch.tensor([-1.0]), 1)[0, 0].tolist()
    [[0.0, 0.0, 0.0], [0.75, 0.0, 0.0], [0.25, 0.0, 0.0]]
    """
    places = torch.arange(-radius, radius + 1, device=dy.device)

    def weights(d: Tensor) -> Tensor:
        low = d.detach().floor()
        rest = (d - low).unsqueeze(1)
        at, above = (places == low.unsqueeze(1)), (places == low.unsqueeze(1) + 1)
        return torch.where(at, 1 - rest, torch.where(above, rest, torch.zeros_like(rest)))

    return (weights(dy).unsqueeze(2) * weights(dx).unsqueeze(1)).unsqueeze(1)


def reach(dy: Tensor, dx: Tensor) -> int:
    """Return the kernel radius that bilinear sampling at these displacements needs, at least 1."""
    both = torch.stack([dy.detach(), dx.detach()])
    return max(1, int(torch.maximum(-both.floor(), both.floor() + 1).max())) if both.numel() else 1


def interpolate(x: Tensor, dy: Tensor, dx: Tensor, stride: int = 1) -> Tensor:
    """Move channels by fractional displacements, bilinearly: ``(n, c, h, w)`` to ``(n, c, ceil(h/s), ceil(w/s))``.

    out[n, c, h, w] = sum_ij k_c[i, j] x[n, c, s h + i, s w + j] with the kernels of `kernel_of`, 0 outside the image.

    >>> interpolate(torch.tensor([[[[0., 4.]]]]), torch.tensor([0.]), torch.tensor([0.25])).flatten().tolist()
    [1.0, 3.0]
    """
    if torch.is_grad_enabled() and (x.requires_grad or dy.requires_grad):
        return _Interpolate.apply(x, dy, dx, stride)  # type: ignore[no-any-return]
    return torch.ops.slimcnn.interpolate(x, dy, dx, stride)  # type: ignore[no-any-return]


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dy: Tensor, dx: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, dy, dx)
        ctx.stride = stride
        return torch.ops.slimcnn.interpolate(x, dy, dx, stride)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, dy, dx = ctx.saved_tensors
        return *interpolated_back(gradient, x, dy, dx, ctx.stride, ctx.needs_input_grad[:2]), None


def interpolated_back(
    gradient: Tensor, x: Tensor, dy: Tensor, dx: Tensor, stride: int, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of `interpolate` with respect to the image and to the displacements."""
    with torch.enable_grad():
        pair = dy.detach().requires_grad_(), dx.detach().requires_grad_()
        kernel = kernel_of(*pair, reach(dy, dx))
    radius, dtype = kernel.shape[-1] // 2, gradient.dtype
    to_x, to_kernel, _ = torch.ops.aten.convolution_backward(
        gradient, x.to(dtype), kernel.detach().to(dtype), None, [stride] * 2, [radius] * 2, [1, 1], False, [0, 0],
        len(kernel), [*wanted, False],
    )  # fmt: skip
    if not wanted[1]:
        return to_x, None, None
    return to_x, *torch.autograd.grad(kernel, pair, to_kernel.to(kernel.dtype))


def _interpolate(x: Tensor, dy: Tensor, dx: Tensor, stride: int) -> Tensor:
    if not x.shape[1]:
        return _strided(x, stride)
    kernel = kernel_of(dy, dx, reach(dy, dx))
    return F.conv2d(x, kernel.to(x.dtype), None, stride, kernel.shape[-1] // 2, groups=len(kernel))


# --- the operators ----------------------------------------------------------------------------------------------------

_LIBRARY = torch.library.Library("slimcnn", "DEF")
_LIBRARY.define("shift(Tensor x, Tensor dy, Tensor dx, int stride) -> Tensor")
_LIBRARY.define("shift_back(Tensor gradient, Tensor dy, Tensor dx, int stride, int height, int width) -> Tensor")
_LIBRARY.define("interpolate(Tensor x, Tensor dy, Tensor dx, int stride) -> Tensor")


def _strided(x: Tensor, stride: int) -> Tensor:
    return x.new_empty(*x.shape[:2], ceil_div(x.shape[2], stride), ceil_div(x.shape[3], stride))


def _register(name: str, kernel: Callable[..., Tensor], shape: Callable[..., Tensor]) -> None:
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"slimcnn::{name}", shape, lib=_LIBRARY)


_register("shift", _shift, lambda x, dy, dx, stride: _strided(x, stride))
_register("shift_back", _shift_back, lambda g, dy, dx, stride, h, w: g.new_empty(*g.shape[:2], h, w))
_register("interpolate", _interpolate, lambda x, dy, dx, stride: _strided(x, stride))
