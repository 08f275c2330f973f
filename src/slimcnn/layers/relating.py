"""Batch norms that scale their channels by a gate over all channels of the layer: global feature relations (GFR).

On z = BN(x), (n, c, h, w), the gate is e = sigmoid(W2 relu(W1 p + b1) + b2), with p the mean of z over h and w. The
batch norm keeps its name, its parameters and its `isinstance` type.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimcnn.errors import ModelError
from slimcnn.layers.mixing import mixed, without

MODES = ("mean", "sample", "annealed")

NARROWER, NARROWEST = 16, 4
"""Width of the gate's hidden layer: c / 16, at least 4."""

OPEN = 2.0
"""Initial value of b2, which gives e = 0.88."""

MOMENTUM = 0.1
"""mu: weight of the newest batch in `sr`."""


class Relating(nn.Module):
    """Scale the output of a batch norm, (n, c, ...), by a gate over its channels.

    ``sr`` is a buffer (c,): the moving average of the gate's batch mean, each value between 0 and 1. In mode "mean",
    channels are scaled by the batch mean in training and by ``sr`` in eval mode, so the gate folds into the batch norm.
    In mode "sample", every image has its own scales, as in squeeze and excitation, and ``sr`` only ranks channels.
    Mode "annealed" begins as "sample" and ends as "mean": the scales are (1 - t) e + t mean(e), with t in the buffer
    ``annealed`` (see `anneal`).
    """

    gate: nn.Sequential
    sr: Tensor
    batches_related: Tensor
    annealed: Tensor
    relation: str

    def forward(self, x: Tensor) -> Tensor:
        """Normalize, then scale the channels."""
        z: Tensor = super().forward(x)
        weights = self.sr[None] if self.relation == "mean" and not self.training else self._related(z)
        return z * weights.to(z.dtype).view(*weights.shape, *[1] * (z.dim() - 2))

    def _related(self, z: Tensor) -> Tensor:
        """Return the scales of every image (n, c), or of the batch (1, c)."""
        p = z.flatten(2).mean(dim=2) if z.dim() > 2 else z
        # Not in bfloat16: its spacing near 0.88 is 0.004, and the gates of two channels differ by less.
        with torch.autocast(z.device.type, enabled=False):
            e: Tensor = self.gate(p.to(self.sr.dtype))
        mean = e.mean(dim=0)
        if self.training:
            self._remember(mean.detach())
        if self.relation == "annealed":
            return torch.lerp(e, (mean if self.training else self.sr).expand_as(e), self.annealed.to(e.dtype))
        return e if self.relation == "sample" else mean[None]

    @torch.no_grad()
    def _remember(self, mean: Tensor) -> None:
        # The first batch initializes `sr`. No value is read on the host, so compilers and accelerators need not wait.
        rate = torch.where(self.batches_related == 0, 1.0, MOMENTUM).to(self.sr.dtype)
        self.sr.copy_(torch.lerp(self.sr, mean.to(self.sr.dtype), rate))
        self.batches_related.add_(1)

    def extra_repr(self) -> str:
        """The text shown by `print(model)`."""
        return f"{super().extra_repr()}, relation={self.relation!r}"


def relate(norm: nn.Module, mode: str = "mean", *, equal: bool = True) -> None:
    """Add a gate over its channels to a batch norm, in place; all gates begin `equal`, or with W2 ~ N(0, 1).

    >>> norm = nn.BatchNorm2d(8)
    >>> relate(norm)
    >>> norm(torch.randn(4, 8, 2, 2)).shape, norm.sr.shape, isinstance(norm, nn.BatchNorm2d)
    (torch.Size([4, 8, 2, 2]), torch.Size([8]), True)
    """
    if mode not in MODES:
        raise ModelError(
            f"mode={mode!r}: choose mean (folds into the batch norm), sample (per-image gate, stays) or annealed (from "
            "sample to mean)"
        )
    if not isinstance(norm, _BatchNorm) or norm.weight is None:
        raise ModelError(f"relations need a batch norm with a scale per channel, found a {type(norm).__name__}")
    c, like = norm.num_features, norm.weight
    hidden = max(c // NARROWER, NARROWEST)
    gate = nn.Sequential(nn.Linear(c, hidden), nn.ReLU(), nn.Linear(hidden, c), nn.Sigmoid())
    last = gate[2]
    assert isinstance(last, nn.Linear)
    # With zeros, all channels initially have the same scale for all images.
    nn.init.zeros_(last.weight) if equal else nn.init.normal_(last.weight)
    nn.init.constant_(last.bias, OPEN)
    norm.__class__ = mixed(Relating, type(norm))  # type: ignore[assignment]
    norm.gate = gate.to(like.device, like.dtype).train(norm.training)
    norm.register_buffer("sr", torch.full_like(like.detach(), 1 / (1 + math.exp(-OPEN))))
    norm.register_buffer("batches_related", torch.zeros((), dtype=torch.int64, device=like.device))
    if mode == "annealed":
        norm.register_buffer("annealed", torch.zeros((), dtype=like.dtype, device=like.device))
    norm.relation = mode  # type: ignore[assignment]


@torch.no_grad()
def anneal(model: nn.Module, t: float) -> None:
    """Set t of all relations of mode "annealed", in place: 0 for a scale per image, 1 for the mean.

    >>> norm = nn.BatchNorm2d(8)
    >>> relate(norm, "annealed")
    >>> anneal(norm, 0.25)
    >>> norm.annealed
    tensor(0.2500)
    """
    for _, norm in relations_in(model):
        if norm.relation == "annealed":
            norm.annealed.fill_(t)


def settle(model: nn.Module) -> None:
    """Turn relations of mode "annealed" into mode "mean", in place: in eval mode nothing changes if t is 1.

    Raises:
        ModelError: t is below 1.
    """
    for name, norm in relations_in(model):
        if norm.relation != "annealed":
            continue
        if float(norm.annealed) < 1:
            raise ModelError(f"the relation of {name} is annealed to {float(norm.annealed):g}: train it to 1 first")
        del norm.annealed
        norm.relation = "mean"


@torch.no_grad()
def fold(norm: nn.Module) -> None:
    """Fold the gate into scale and shift, gamma' = sr gamma and beta' = sr beta, and remove it; in place.

    In eval mode the output of the batch norm does not change.
    """
    norm.weight.mul_(norm.sr)  # type: ignore[operator, arg-type]
    norm.bias.mul_(norm.sr)  # type: ignore[operator, arg-type]
    norm.__class__ = without(Relating, type(norm))
    del norm.gate, norm.sr, norm.batches_related, norm.relation


def relations_in(model: nn.Module) -> Iterator[tuple[str, Relating]]:
    """List the batch norms of a network that have relations, with their names."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, Relating))


def relating_of(model: nn.Module) -> dict[str, str]:
    """Return a JSON description of the relations in a network: name of the batch norm → mode."""
    return {name: module.relation for name, module in relations_in(model)}


def relate_as(model: nn.Module, described: Mapping[str, Any]) -> None:
    """Apply a description by `relating_of` to another copy of the network, in place.

    Raises:
        ModelError: the network does not have these batch norms.
    """
    modules = dict(model.named_modules())
    for name, mode in described.items():
        if name not in modules:
            raise ModelError(f"the network has no batch norm {name!r} to insert relations in: use the matching network")
        relate(modules[name], mode)
