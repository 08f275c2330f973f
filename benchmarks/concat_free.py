"""Feature reuse units that write both halves into one preallocated tensor, to measure the cost of concatenation."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from slimcnn.layers.reusing import FeatureReuse, ReusingBlock


class WithoutConcatenation(FeatureReuse):
    """y = [r, f_k]: copy r and write the activation of f_k into their slices of y."""

    def forward(self, x: Tensor) -> Tensor:
        reused = self.pool(x) if self.unit.reused == "input" else None
        read = x
        for number, step in enumerate(self.steps[:-1]):
            read = torch.relu_(step(read))
            if number == 0 and reused is None:
                reused = self.pool(read)
        new = self.steps[-1](read)
        h = reused.shape[1]
        y = new.new_empty(len(new), h + new.shape[1], *new.shape[2:])
        y[:, :h].copy_(reused)
        torch.clamp_min(new, 0, out=y[:, h:])
        return y


class BlockWithoutConcatenation(ReusingBlock):
    """y = relu([b_1, b_2] + x): add each half to x in its slice of y."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.features.steps
        b = first(x)
        c = second(torch.relu(b))
        y, h = torch.empty_like(x), b.shape[1]
        torch.add(b, x[:, :h], out=y[:, :h])
        torch.add(c, x[:, h:], out=y[:, h:])
        return y.relu_()


def without_concatenation(model: nn.Module) -> nn.Module:
    """Copy a network with "pair" units, for inference."""
    other = copy.deepcopy(model)
    for module in other.modules():
        if type(module) is FeatureReuse and not module.unit.residual:
            module.__class__ = WithoutConcatenation
        elif type(module) is ReusingBlock:
            module.__class__ = BlockWithoutConcatenation
    return other
