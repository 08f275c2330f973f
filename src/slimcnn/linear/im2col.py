"""Express a layer as a matrix product (im2col): one row of inputs and one of outputs for each output position."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from slimcnn.linear.layers import LinearLayer
from slimcnn.linear.layerwise_replay import ReplayedOp

ROWS = 32768
"""Maximum number of rows used for a layer; eight rows per input feature if that is more."""

MOST_INPUTS = 8192
"""Maximum number of input features of a layer: its normal equations then take 512 MiB."""


def rows_of(
    layer: LinearLayer, weight: Tensor, operation: ReplayedOp, batch: int, images: int
) -> tuple[Tensor, Tensor]:
    """Return a layer's inputs for a batch (see `inputs_at`) and their output positions; `ROWS` bounds all `images`."""
    x = operation.args[1] if len(operation.args) == 3 else operation.args[0]  # addmm begins with its bias
    x, made = (by_image(layer, tensor, batch) for tensor in (x, operation.out))
    most = -(-max(ROWS, 8 * as_matrix(layer, weight).shape[2]) // images)
    positions = positions_of(layer, made, most)
    return inputs_at(layer, x, weight, made, positions), positions


def by_image(layer: LinearLayer, tensor: Tensor, images: int) -> Tensor:
    """Split the rows of a linear layer by image: (n * t, f) -> (n, t, f)."""
    if layer.convolution or len(tensor) == images:
        return tensor
    return tensor.reshape(images, -1, tensor.shape[-1])


def positions_of(layer: LinearLayer, made: Tensor, most: int) -> Tensor:
    """Choose at most `most` output positions of one sample, at random with a fixed seed.

    `made` is the layer's output, (n, c, ...) or (..., features).
    """
    total = made[0, 0].numel() if layer.convolution else made[0].numel() // made.shape[-1]
    if total <= most:
        return torch.arange(total)
    return torch.randperm(total, generator=torch.Generator().manual_seed(0))[:most].sort().values


def inputs_at(layer: LinearLayer, x: Tensor, weight: Tensor, made: Tensor, positions: Tensor) -> Tensor:
    """Return the layer's inputs at output positions: (groups, n, positions, features), features as in `as_matrix`.

    >>> x, weight = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3)
    >>> layer = LinearLayer("weight", None, 0, (2, 2), (1, 1), (1, 1), (0, 0))
    >>> made = F.conv2d(x, weight, stride=2, padding=1)
    >>> rows = inputs_at(layer, x, weight, made, torch.arange(9))
    >>> torch.allclose(rows[0] @ as_matrix(layer, weight)[0].T, made.flatten(2).transpose(1, 2), atol=1e-5)
    True
    """
    if not layer.convolution:
        return x.reshape(1, x.shape[0], -1, x.shape[-1])[:, :, positions]
    spans = [d * (k - 1) for d, k in zip(layer.dilation, weight.shape[2:], strict=True)]
    if layer.transposed:
        sizes = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], layer.stride, strict=True)]
        stretched = x.new_zeros(*x.shape[:2], *sizes)
        every: list[Any] = [slice(None), slice(None), *(slice(None, None, s) for s in layer.stride)]
        stretched[tuple(every)] = x
        margins = [(span, span + extra) for span, extra in zip(spans, layer.extra, strict=True)]
        padded, steps = F.pad(stretched, [side for pair in reversed(margins) for side in pair]), (1,) * len(spans)
    else:
        padded, steps = F.pad(x, [p for p in reversed(layer.padding) for _ in range(2)]), layer.stride
    where = torch.zeros((), dtype=torch.long, device=x.device)
    place = torch.unravel_index(positions.to(x.device), made.shape[2:])
    offsets = torch.tensor(list(product(*map(range, weight.shape[2:]))), device=x.device)
    for axis, length in enumerate(padded.shape[2:]):
        reach = offsets[:, axis] * layer.dilation[axis]
        if layer.transposed:
            reach = layer.padding[axis] + spans[axis] - reach
        where = where * length + place[axis][:, None] * steps[axis] + reach
    found = padded.flatten(2)[:, :, where]  # (n, c, positions, kernel)
    return _split_groups(found, 1, layer).permute(1, 0, 3, 2, 4).flatten(3)


def outputs_at(layer: LinearLayer, made: Tensor, positions: Tensor) -> Tensor:
    """Return the layer's outputs at positions: (groups, n, positions, channels of a group)."""
    if not layer.convolution:
        return made.reshape(1, made.shape[0], -1, made.shape[-1])[:, :, positions]
    found = made.flatten(2)[:, :, positions.to(made.device)]
    return _split_groups(found, 1, layer).permute(1, 0, 3, 2)


def as_matrix(layer: LinearLayer, weight: Tensor) -> Tensor:
    """Reshape a weight to matrices (groups, output channels of a group, features): outputs = inputs @ matrix.T."""
    if layer.transposed:
        return _split_groups(weight, 0, layer).transpose(1, 2).flatten(2)
    return _split_groups(weight, 0, layer).flatten(2)


def as_weight(layer: LinearLayer, matrix: Tensor, shape: torch.Size) -> Tensor:
    """Reshape matrices to a weight: the inverse of `as_matrix`."""
    if layer.transposed:
        return matrix.view(*matrix.shape[:2], shape[0] // layer.groups, -1).transpose(1, 2).reshape(shape)
    return matrix.reshape(shape)


def _split_groups(tensor: Tensor, axis: int, layer: LinearLayer) -> Tensor:
    """Split an axis by the groups of the layer."""
    sizes = list(tensor.shape)
    return tensor.reshape(*sizes[:axis], layer.groups, sizes[axis] // layer.groups, *sizes[axis + 1 :])
