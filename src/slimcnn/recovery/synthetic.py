"""Images for networks that come without any: noise, changed until batch norms see the statistics that they remember."""

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
    r"""Make images (images, *shape) on which a network's batch norms see the means and variances that they remember.

    Batch-norm statistics are what a trained network keeps of its training images. From smooth noise, Adam minimizes

        sum over batch norms of  mean((m - mu)^2 / var) + mean((v / var - 1)^2)

    with m, v the mean and variance of what the norm is given, per channel, and mu, var its running statistics. The
    result does not look like anything, but its channels are correlated as real images make them: enough for
    `least_squares` to fold in constants and to let channels stand in for one another.

    Args:
        model: a trained network; it is not changed.
        shape: of one image, (c, h, w).
        images: how many.
        steps: of Adam.
        seed: for the noise.
        progress: called with (steps done, steps in all).

    Raises:
        ModelError: the network has no batch norm with running statistics.

    Source: ZeroQ, Cai et al. 2020 (arXiv 2001.00281); we begin with smooth noise, and divide by the variances.

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
    gap = _Gap()
    hooks = [norm.register_forward_pre_hook(gap.see) for norm in norms if len(norm.running_mean)]  # type: ignore[arg-type]
    if not hooks:
        raise ModelError("images cannot be made without batch norms that remember statistics: give real images")
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(images, shape[0], *(-(-size // 4) for size in shape[1:]), generator=generator)
    fine = torch.randn(images, *shape, generator=generator)
    x = nn.functional.interpolate(coarse, size=shape[1:], mode="bilinear") + 0.5 * fine
    x.requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.1)
    with torch.enable_grad():
        for step in range(steps):
            progress(step, steps)
            gap.total = torch.zeros(())
            optimizer.zero_grad()
            copied(x)
            gap.total.backward()
            optimizer.step()
    progress(steps, steps)
    return x.detach()


@dataclass
class _Gap:
    """How far the statistics that norms see are from those that they remember."""

    total: Tensor = field(default_factory=lambda: torch.zeros(()))

    def see(self, norm: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].float()
        variance, mean = torch.var_mean(x, dim=[d for d in range(x.dim()) if d != 1], correction=0)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        known = norm.running_var.clamp_min(norm.eps)
        off = ((mean - norm.running_mean) ** 2 / known).mean() + ((variance / known - 1) ** 2).mean()
        self.total = self.total + off
