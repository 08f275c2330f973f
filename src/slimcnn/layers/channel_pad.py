"""Zero padding of the channels: the parameter-free shortcut of He et al. 2015 (option A)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from slimcnn.errors import ModelError


class ChannelPad(nn.Module):
    """Pad the channel axis with zeros: ``(n, c, ...)`` becomes ``(n, front + c + back, ...)``.

    ``front`` and ``back`` are plain integers >= 0, read at every call: pruning changes them when it removes channels.
    A negative one raises `ModelError`.

    >>> import torch
    >>> ChannelPad(1, 2)(torch.ones(1, 2, 1, 1)).flatten().tolist()
    [0.0, 1.0, 1.0, 0.0, 0.0]
    """

    def __init__(self, front: int, back: int) -> None:
        super().__init__()
        if front < 0 or back < 0:
            raise ModelError(f"cannot pad by {front} and {back} channels: padding must be 0 or more")
        self.front = front
        self.back = back

    def forward(self, x: Tensor) -> Tensor:
        """Pad `x`."""
        later_axes = [0, 0] * (x.dim() - 2)  # F.pad counts from the last axis
        return F.pad(x, [*later_axes, self.front, self.back])

    def extra_repr(self) -> str:
        """The text shown by `print(model)`."""
        return f"{self.front}, {self.back}"
