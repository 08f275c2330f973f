"""Shift layers: they move channels in space instead of convolving them; 1x1 convolutions do the rest.

===============  =============================================  ==========================================
layer            displacements                                  source
===============  =============================================  ==========================================
`GroupedShift`   whole pixels, the same number of channels for  Wu et al. 2018, ShiftNet, arXiv 1711.08141
                 every position of a k x k window
`ActiveShift`    real numbers, learned, bilinear                Jeon, Kim 2018, arXiv 1806.07370
`SparseShift`    real numbers, learned, rounded, few nonzero    Chen et al. 2019, FE-Net, arXiv 1903.05285
`AddressShift`   one pixel up, down, left or right              He et al. 2019, AddressNet, arXiv 1809.08458
`ChannelShift`   along the channels, not over space             He et al. 2019, AddressNet, arXiv 1809.08458
===============  =============================================  ==========================================

All but the last have one displacement (dy, dx) per channel: out[h, w] = in[h + dy, w + dx], zeros outside. The
displacements are tensors (c,); pruning channels prunes them, too.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from slimcnn.errors import ModelError
from slimcnn.layers.shifting import interpolate, interpolated_back, kernel_of, reach, shift

Order = Literal["interleaved", "blocks"]


def grouped_displacements(channels: int, kernel: int, order: Order = "interleaved") -> tuple[list[int], list[int]]:
    """Distribute channels over a k x k window: dy and dx of every channel (Wu et al. 2018, section 3.1).

    With g = k² and m = floor(C / g), channel c < g m of `"interleaved"` (the authors' code) has dx = c mod k -
    floor(k / 2) and dy = floor(c / k) mod k - floor(k / 2); the others do not move. `"blocks"` is the same with
    channels permuted: the m channels with the same displacement are adjacent.

    Raises:
        ModelError: the kernel is not odd, or the order is unknown.

    >>> grouped_displacements(10, 3)
    ([-1, -1, -1, 0, 0, 0, 1, 1, 1, 0], [-1, 0, 1, -1, 0, 1, -1, 0, 1, 0])
    """
    if isinstance(kernel, bool) or not isinstance(kernel, int) or kernel < 1 or kernel % 2 == 0:
        raise ModelError(f"kernel={kernel!r} is invalid: it must be a positive odd integer (1, 3, 5 ...)")
    if order not in ("interleaved", "blocks"):
        raise ModelError(f"order={order!r} is invalid: choose 'interleaved' or 'blocks'")
    each, half = channels // kernel**2, kernel // 2
    places = [c % kernel**2 if order == "interleaved" else c // each for c in range(each * kernel**2)]
    still = [0] * (channels - len(places))
    return [p // kernel - half for p in places] + still, [p % kernel - half for p in places] + still


class FixedShift(nn.Module):
    """Move every channel by a fixed number of pixels: ``(n, c, h, w)`` to ``(n, c, ceil(h/s), ceil(w/s))``.

    It has no parameters; `dy` and `dx` are buffers (c,). With a stride, only the pixels that are kept are moved. The
    result is the same as with the stride in a following 1x1 convolution.
    """

    dy: Tensor
    dx: Tensor

    def __init__(self, dy: list[int], dx: list[int], stride: int = 1) -> None:
        super().__init__()
        self.register_buffer("dy", torch.tensor(dy))
        self.register_buffer("dx", torch.tensor(dx))
        self.stride = _checked_stride(stride)
        self.radius = max(map(abs, (*dy, *dx)), default=0)

    def forward(self, x: Tensor) -> Tensor:
        """Move the channels of `x`."""
        _check(x, self.dy, self)
        if _exporting():  # in other runtimes, a depthwise convolution is faster than copies
            return _convolved(x, kernel_of(self.dy.to(x.dtype), self.dx.to(x.dtype), self.radius), self.stride)
        return shift(x, self.dy, self.dx, self.stride)

    def extra_repr(self) -> str:
        """The text shown by `print(model)`."""
        return f"{len(self.dy)}, radius={self.radius}, stride={self.stride}"


class GroupedShift(FixedShift):
    """Grouped shift (Wu et al. 2018, arXiv 1711.08141): channels are distributed over a k x k window.

    See `grouped_displacements`. It copies channels and multiplies nothing, far faster than a depthwise convolution.

    >>> GroupedShift(18, kernel=3)(torch.ones(1, 18, 5, 5)).shape
    torch.Size([1, 18, 5, 5])
    """

    def __init__(self, channels: int, kernel: int = 3, stride: int = 1, order: Order = "interleaved") -> None:
        super().__init__(*grouped_displacements(channels, kernel, order), stride)


class AddressShift(FixedShift):
    """Address shift (He et al. 2019, arXiv 1809.08458): a quarter of the channels moves one pixel in each direction.

    Up, down, left, right, in blocks of floor(C / 4); the remaining channels do not move.

    >>> AddressShift(5).dy.tolist(), AddressShift(5).dx.tolist()
    ([1, -1, 0, 0, 0], [0, 0, 1, -1, 0])
    """

    def __init__(self, channels: int, stride: int = 1) -> None:
        each = channels // 4
        moves = [move for move in ((1, 0), (-1, 0), (0, 1), (0, -1)) for _ in range(each)]
        moves += [(0, 0)] * (channels - 4 * each)
        super().__init__([dy for dy, _ in moves], [dx for _, dx in moves], stride)


class ChannelShift(nn.Module):
    """Channel shift (He et al. 2019, arXiv 1809.08458): the last of g groups of channels moves to the front.

    The shape ``(n, c, h, w)`` stays. Between grouped convolutions it moves channels to other groups, like a shuffle,
    with two copies. Raises `ModelError` if c is not a multiple of g.

    >>> ChannelShift(2)(torch.arange(4.).view(1, 4, 1, 1)).flatten().tolist()
    [2.0, 3.0, 0.0, 1.0]
    """

    def __init__(self, groups: int = 2) -> None:
        super().__init__()
        if groups < 2:
            raise ModelError(f"groups={groups} is invalid: a channel shift needs at least two groups")
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Rotate the groups by one."""
        if x.shape[1] % self.groups:
            raise ModelError(f"{x.shape[1]} channels cannot be divided into {self.groups} equal groups")
        *front, last = x.chunk(self.groups, 1)
        return torch.cat([last, *front], 1)

    def extra_repr(self) -> str:
        """The text shown by `print(model)`."""
        return str(self.groups)


class LearnedShift(nn.Module):
    """Base class of active and sparse shift: learned displacements `dy`, `dx`, parameters (c,) in pixels."""

    def __init__(self, channels: int, stride: int, reach: float) -> None:
        super().__init__()
        self.dy = nn.Parameter(torch.empty(channels).uniform_(-reach, reach))
        self.dx = nn.Parameter(torch.empty(channels).uniform_(-reach, reach))
        self.stride = _checked_stride(stride)
        self.radius = self._reach()

    def _reach(self) -> int:
        return 1 if self.dy.is_meta else reach(self.dy, self.dx)

    def train(self, mode: bool = True) -> Any:
        """Set the mode and update `radius`, because the kernels of an exported network have fixed sizes."""
        self.radius = self._reach()
        return super().train(mode)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.radius = self._reach()

    def extra_repr(self) -> str:
        """The text shown by `print(model)`."""
        return f"{len(self.dy)}, stride={self.stride}"


class ActiveShift(LearnedShift):
    """Active shift (Jeon, Kim 2018, arXiv 1806.07370): one learned displacement (alpha, beta) per channel.

    Bilinear sampling with zeros outside; displacements start from U(-1, 1). As in the paper, the gradient of every
    pair (alpha, beta) is normalized to length 1 and the learning rate is lowered by the factor `rate`; None leaves
    gradients unchanged. Our training applies no weight decay to parameters with one axis.

    ``(n, c, h, w)`` to ``(n, c, ceil(h / s), ceil(w / s))``.

    >>> ActiveShift(4)(torch.ones(1, 4, 6, 6)).shape
    torch.Size([1, 4, 6, 6])
    """

    def __init__(self, channels: int, stride: int = 1, rate: float | None = 0.01) -> None:
        super().__init__(channels, stride, reach=1.0)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Sample the channels of `x` at their displacements."""
        _check(x, self.dy, self)
        if _exporting():
            return _convolved(x, kernel_of(self.dy, self.dx, self.radius).to(x.dtype), self.stride)
        if self.rate is None or not torch.is_grad_enabled():
            return interpolate(x, self.dy, self.dx, self.stride)
        dy, dx = _UnitGradient.apply(self.dy, self.dx, self.rate)
        return interpolate(x, dy, dx, self.stride)


class _UnitGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dy: Tensor, dx: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        ctx.rate = rate
        return dy.clone(), dx.clone()

    @staticmethod
    def backward(ctx: Any, to_dy: Tensor, to_dx: Tensor) -> tuple[Tensor, Tensor, None]:
        length = torch.hypot(to_dy, to_dx).clamp_min(1e-12) / ctx.rate
        return to_dy / length, to_dx / length, None


class SparseShift(LearnedShift):
    """Sparse shift (Chen et al. 2019, arXiv 1903.05285): learned displacements, rounded and mostly zero.

    The forward pass and the gradient of the image use round(alpha), round(beta). The gradient of the displacements is
    that of bilinear sampling at the unrounded (alpha, beta), plus `penalty` times their sign: an L1 penalty, so that a
    channel moves only if that helps. Displacements start from U(-1, 1) (the paper does not specify this); halves are
    rounded to even.

    ``(n, c, h, w)`` to ``(n, c, ceil(h / s), ceil(w / s))``.

    >>> SparseShift(4, stride=2)(torch.zeros(1, 4, 5, 5)).shape
    torch.Size([1, 4, 3, 3])
    """

    def __init__(self, channels: int, stride: int = 1, penalty: float = 4e-5) -> None:
        super().__init__(channels, stride, reach=1.0)
        if penalty < 0:
            raise ModelError(f"penalty={penalty} is invalid: it must be at least 0")
        self.penalty = penalty

    def forward(self, x: Tensor) -> Tensor:
        """Move the channels of `x` by their rounded displacements."""
        _check(x, self.dy, self)
        if _exporting():
            dy, dx = (d.detach().round().to(x.dtype) for d in (self.dy, self.dx))
            return _convolved(x, kernel_of(dy, dx, self.radius), self.stride)
        if torch.is_grad_enabled() and self.dy.requires_grad:
            return _SparseShift.apply(x, self.dy, self.dx, self.stride, self.penalty)  # type: ignore[no-any-return]
        return shift(x, self.dy.detach().round().long(), self.dx.detach().round().long(), self.stride)

    def extra_repr(self) -> str:
        """The text shown by `print(model)`."""
        return f"{super().extra_repr()}, penalty={self.penalty:g}"


class _SparseShift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dy: Tensor, dx: Tensor, stride: int, penalty: float) -> Tensor:
        whole = dy.round().long(), dx.round().long()
        ctx.save_for_backward(x, dy, dx)
        ctx.whole, ctx.stride, ctx.penalty = whole, stride, penalty
        return torch.ops.slimcnn.shift(x, *whole, stride)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, dy, dx = ctx.saved_tensors
        to_x = torch.ops.slimcnn.shift_back(gradient, *ctx.whole, ctx.stride, *x.shape[2:])
        _, to_dy, to_dx = interpolated_back(gradient, x, dy, dx, ctx.stride, (False, True))
        assert to_dy is not None
        assert to_dx is not None
        return to_x, to_dy + ctx.penalty * dy.sign(), to_dx + ctx.penalty * dx.sign(), None, None


def _convolved(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    return torch.nn.functional.conv2d(x, kernel, None, stride, kernel.shape[-1] // 2, groups=kernel.shape[0])


def _exporting() -> bool:
    return torch.compiler.is_exporting() or bool(torch._C._get_tracing_state())


def _checked_stride(stride: int) -> int:
    if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
        raise ModelError(f"stride={stride!r} is invalid: it must be an integer of at least 1")
    return stride


def _check(x: Tensor, displacements: Tensor, layer: nn.Module) -> None:
    if x.dim() != 4 or x.shape[1] != displacements.shape[0]:
        raise ModelError(
            f"{type(layer).__name__} expects images (n, {len(displacements)}, h, w), found {tuple(x.shape)}"
        )
