"""Synthetic images for networks without data: noise, optimized to match the running statistics of batch norms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimcnn.errors import ModelError
from slimcnn.graph.copying import duplicate


def synthesize(
    model: nn.Module,
    shape: tuple[int, ...],
    images: int = 128,
    steps: int = 50,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Tensor:
    r"""Generate images (images, *shape) whose statistics match the running statistics of a network's batch norms.

    Running statistics are all that a trained network stores of its training images. From smooth noise, Adam minimizes

        sum over batch norms of  mean((m - mu)^2 / var) + mean((v / var - 1)^2)

    with m, v the mean and variance of the norm's input, per channel, and mu, var its running statistics. The images
    look like noise, but the network's channels are correlated as for real images. That is enough for `least_squares`
    to fold constants and to replace channels by combinations of others.

    Args:
        model: a trained network; not changed.
        shape: shape of one image, (c, h, w).
        images: number of images.
        steps: number of Adam steps.
        seed: seed of the noise.
        progress: called with (steps done, steps in total).

    Raises:
        ModelError: the network has no batch norm with running statistics.

    Source: ZeroQ, Cai et al. 2020 (arXiv 2001.00281). Deviations: smooth initial noise, division by the variances.

    >>> _ = torch.manual_seed(4)
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    >>> net[1].running_mean.fill_(2.0).tolist()
    [2.0, 2.0, 2.0, 2.0]
    >>> x = synthesize(net, (3, 8, 8), images=16, steps=200)
    >>> (net[0](x).mean((0, 2, 3)) - 2).abs().max().item() < 0.3
    True
    """
    copied = duplicate(model).eval().requires_grad_(False)
    norms = [m for m in copied.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    loss = _StatisticsLoss()
    nonempty = [norm for norm in norms if len(norm.running_mean)]  # type: ignore[arg-type]
    hooks = [norm.register_forward_pre_hook(loss.add) for norm in nonempty]
    if not hooks:
        raise ModelError("the network has no batch norm with running statistics to synthesize images: give real images")
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(images, shape[0], *(-(-size // 4) for size in shape[1:]), generator=generator)
    fine = torch.randn(images, *shape, generator=generator)
    x = nn.functional.interpolate(coarse, size=shape[1:], mode="bilinear") + 0.5 * fine
    x.requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.1)
    with torch.enable_grad():
        for step in range(steps):
            progress(step, steps)
            loss.total = torch.zeros(())
            optimizer.zero_grad()
            copied(x)
            loss.total.backward()
            optimizer.step()
    progress(steps, steps)
    return x.detach()


@dataclass
class _StatisticsLoss:
    """The distance between the statistics of norm inputs and the running statistics of the norms."""

    total: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, norm: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].float()
        variance, mean = torch.var_mean(x, dim=[d for d in range(x.dim()) if d != 1], correction=0)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        known = norm.running_var.clamp_min(norm.eps)
        off = ((mean - norm.running_mean) ** 2 / known).mean() + ((variance / known - 1) ** 2).mean()
        self.total = self.total + off
