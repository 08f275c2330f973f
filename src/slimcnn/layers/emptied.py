"""Convolutions and batch norms without channels: what remains of a residual branch that was removed.

PyTorch's own layers reject tensors without channels or return wrong results. A convolution without input channels
returns its bias everywhere, exactly like one whose weights are all zero.
"""

from __future__ import annotations

from torch import Tensor, nn


class _EmptyConv(nn.modules.conv._ConvNd):
    def forward(self, input: Tensor) -> Tensor:
        """Return the bias or zero: (n, in_channels, ...) to (n, out_channels, ...)."""
        space = [self._length(i, size) for i, size in enumerate(input.shape[2:])]
        output = input.new_zeros(input.shape[0], self.out_channels, *space)
        return output if self.bias is None else output + self.bias.view(-1, *[1] * len(space))

    def _length(self, i: int, size: int) -> int:
        if self.padding == "same":
            return size
        padding = 0 if isinstance(self.padding, str) else self.padding[i]
        return (size + 2 * padding - self.dilation[i] * (self.kernel_size[i] - 1) - 1) // self.stride[i] + 1


class EmptyConv1d(_EmptyConv, nn.Conv1d):
    """A `Conv1d` without input or output channels."""


class EmptyConv2d(_EmptyConv, nn.Conv2d):
    """A `Conv2d` without input or output channels: (n, c, h, w) to its bias."""


class EmptyConv3d(_EmptyConv, nn.Conv3d):
    """A `Conv3d` without input or output channels."""


class _EmptyBatchNorm(nn.modules.batchnorm._BatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        """Return the input, which has no channels."""
        return input

    def _check_input_dim(self, input: Tensor) -> None:
        pass


class EmptyBatchNorm1d(_EmptyBatchNorm, nn.BatchNorm1d):
    """A `BatchNorm1d` without channels."""


class EmptyBatchNorm2d(_EmptyBatchNorm, nn.BatchNorm2d):
    """A `BatchNorm2d` without channels."""


class EmptyBatchNorm3d(_EmptyBatchNorm, nn.BatchNorm3d):
    """A `BatchNorm3d` without channels."""


EMPTY: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: EmptyConv1d, nn.Conv2d: EmptyConv2d, nn.Conv3d: EmptyConv3d, nn.BatchNorm1d: EmptyBatchNorm1d,
    nn.BatchNorm2d: EmptyBatchNorm2d, nn.BatchNorm3d: EmptyBatchNorm3d,
}  # fmt: skip
"""Layer class → the class that replaces it if it has no channels."""


def make_empty(module: nn.Module) -> nn.Module:
    """Change the class of a layer without input or output channels to one of `EMPTY`, in place; return the layer.

    >>> import torch
    >>> conv = nn.Conv2d(2, 3, 3, padding=1)
    >>> conv.weight, conv.in_channels = nn.Parameter(conv.weight.detach()[:, :0]), 0
    >>> torch.equal(make_empty(conv)(torch.ones(1, 0, 4, 4))[0, :, 0, 0], conv.bias)
    True
    """
    names = ("in_channels", "out_channels", "num_features")
    if type(module) in EMPTY and 0 in [getattr(module, name) for name in names if hasattr(module, name)]:
        module.__class__ = EMPTY[type(module)]
    return module
