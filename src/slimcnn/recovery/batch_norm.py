"""Batch norm recalibration: re-estimate running statistics after a network has changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimcnn.errors import DataError, ModelError
from slimcnn.modes import modes_restored


def recalibrate(model: nn.Module, batches: Iterable[Tensor | tuple[Tensor, ...]]) -> int:
    """Re-estimate all running statistics of batch norm from scratch, in place; return the number of updated layers.

    `batches` contains normalized images `(n, c, h, w)`, or tuples that begin with them. A few thousand images are
    enough, in batches as large as in training. One pass ("PreciseBN", Wu & Johnson 2021, section 3): every layer
    normalizes with the statistics of the batch, as in training, and its running mean and variance become those of all
    its inputs, pooled: mean = E[x], var = (E[x²] - E[x]²) m / (m - 1) over m values. So a layer's result does not
    depend on how its inputs are divided into batches. PyTorch's cumulative average (`momentum=None`) would weight a
    short last batch like a full one and omit the variance between batches.

    Weights, modes and momentum stay unchanged; dropout is off. After an error the statistics are as before. Batch
    norms without running statistics, and layers that no image reaches, stay unchanged.

    Raises `DataError` for images that are not finite or a batch too small for a variance, `ModelError` if values
    inside the network are not finite.

    >>> model = nn.BatchNorm2d(1)
    >>> recalibrate(model, [torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1)])
    1
    >>> model.running_mean, model.running_var
    (tensor([0.5000]), tensor([0.3333]))
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    # A norm in a removed branch has no channels.
    layers = {norm: _Moments() for norm in norms if norm.running_mean is not None and len(norm.running_mean)}
    if not layers:
        return 0
    with torch.no_grad(), modes_restored(model), _statistics_restored_on_error(layers):
        model.eval()
        for layer in layers:
            layer.training = True
        seen = _run(model, batches, layers)
        reached = {layer: moments for layer, moments in layers.items() if moments.count > 1}
        for layer, moments in reached.items():
            _store(layer, moments, seen)
    return len(reached)


@dataclass
class _Moments:
    """Count, mean and sum of squared deviations per channel."""

    count: int = 0
    mean: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        """Add `(n, c, ...)`, merged as in Chan et al. 1979 to avoid subtracting large sums."""
        x = x.float() if x.dtype.itemsize < 4 else x
        n = x.numel() // x.shape[1]
        variance, mean = torch.var_mean(x, dim=[axis for axis in range(x.dim()) if axis != 1], correction=0)
        variance, mean = variance.cpu().double(), mean.cpu().double()
        total, shift = self.count + n, mean - self.mean
        self.squares = self.squares + variance * n + shift**2 * (self.count * n / total)
        self.mean = self.mean + shift * (n / total)
        self.count = total


def _run(model: nn.Module, batches: Iterable[Tensor | tuple[Tensor, ...]], layers: dict[_BatchNorm, _Moments]) -> int:
    """Run the network on all batches to fill `layers`; return the number of batches."""
    first = next(model.parameters(), None)
    device = first.device if first is not None else next(iter(layers)).running_mean.device  # type: ignore[union-attr]
    seen = 0
    with ExitStack() as hooks:
        for layer, moments in layers.items():
            hooks.enter_context(_observed(layer, moments))
        for batch in batches:
            x = batch if isinstance(batch, Tensor) else batch[0]
            bad = int((~torch.isfinite(x)).sum())
            if bad:
                raise DataError(
                    f"batch {seen} of the recalibration images has {bad} values that are not finite: check the data"
                )
            try:
                model(x.to(device))
            except (RuntimeError, ValueError) as error:
                reason = str(error).partition("\n")[0]
                raise DataError(f"batch {seen} {tuple(x.shape)} of the recalibration images fails: {reason}") from error
            seen += 1
    if not seen:
        raise DataError("no images to recalibrate batch norm with: give at least one batch")
    return seen


@contextmanager
def _observed(layer: _BatchNorm, moments: _Moments) -> Iterator[None]:
    hook = layer.register_forward_pre_hook(lambda _, inputs: moments.add(inputs[0]))
    try:
        yield
    finally:
        hook.remove()


def _store(layer: _BatchNorm, moments: _Moments, seen: int) -> None:
    assert isinstance(moments.mean, Tensor)
    variance = torch.as_tensor(moments.squares) / (moments.count - 1)
    if not (torch.isfinite(moments.mean).all() and torch.isfinite(variance).all()):
        raise ModelError(
            f"a batch norm with {len(moments.mean)} channels receives values that are not finite: check the weights"
        )
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(moments.mean)
    layer.running_var.copy_(variance)
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.fill_(seen)


@contextmanager
def _statistics_restored_on_error(layers: Iterable[_BatchNorm]) -> Iterator[None]:
    old = [(buffer, buffer.clone()) for layer in layers for buffer in layer.buffers(recurse=False)]
    try:
        yield
    except BaseException:
        for buffer, value in old:
            buffer.copy_(value)
        raise
