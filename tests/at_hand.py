"""What tests of graphs and of laws share: a network in a line of code, numbers that hide nothing, a random cut."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from slimcnn.graph import ChannelGraph
from slimcnn.pruning import Plan


def mostly_slow(cases: Iterable[Any], often: Container[Any]) -> list[Any]:
    """Cases for parametrize: those in `often` in every run, the others in the slow suite."""
    return [
        case if case in often else pytest.param(*(case if isinstance(case, tuple) else [case]), marks=pytest.mark.slow)
        for case in cases
    ]


class Net(nn.Module):
    """Modules, and the function that runs them."""

    def __init__(self, forward: Callable[..., Any], **modules: Any) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.run = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


def randomize(model: nn.Module, seed: int = 1) -> None:
    """Give batch norms statistics and scales that a mistake cannot hide behind."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            for tensor, low, high in ((module.weight, 0.5, 1.5), (module.bias, -0.5, 0.5),
                                      (module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 1.5)):  # fmt: skip
                if tensor is not None:
                    tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)


def some_channels(graph: ChannelGraph, seed: int) -> Plan:
    """Remove a random number of random channels of every group, as many of each part; with seed 0 all that may go."""
    generator = torch.Generator().manual_seed(seed)
    removed = {}
    for bundle in graph.bundles:
        groups = [graph.groups[i] for i in bundle]
        most = min((group.channels - group.least) // len(group.parts) for group in groups)
        n = int(torch.randint(1, most + 1, (), generator=generator)) if seed else most
        for group in groups:
            orders = [torch.randperm(len(part), generator=generator)[:n] for part in group.parts]
            gone = [part[order.numpy()] for part, order in zip(group.parts, orders, strict=True)]
            removed[group.name] = tuple(np.concatenate(gone).tolist())
    return Plan(graph.fingerprint, removed)
