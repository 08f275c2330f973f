"""What a plan promises to cost is what the cut network costs, to the last MAC and parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks_to_prune import image, plain, residual
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import slimcnn
from slimcnn.graph import trace
from slimcnn.pruning import Plan, Target, allocate, prune, score


class Mixed(nn.Module):
    """Every way to cost something: grouped, depthwise, transposed, shared, tied, mixed over pixels, attended."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.grouped = nn.Conv2d(12, 16, 1, groups=4)
        self.depthwise = nn.Conv2d(16, 32, 3, padding=1, groups=16)
        self.up, self.up_depthwise = nn.ConvTranspose2d(32, 10, 2, stride=2), nn.ConvTranspose2d(10, 10, 1, groups=10)
        self.up_grouped = nn.ConvTranspose2d(10, 12, 1, groups=2)
        self.shared = nn.Conv2d(12, 12, 1)
        self.tied = nn.Parameter(torch.randn(12, 9))
        self.pixels = nn.Linear(64, 6)
        self.head = nn.Linear(9 * 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up_grouped(self.up_depthwise(self.up(self.depthwise(self.grouped(self.stem(x))))))
        y = self.shared(torch.relu(self.shared(y)))
        y = torch.einsum("nchw,cd->ndhw", y, self.tied).flatten(2)
        attention = (y.transpose(1, 2) @ y).softmax(-1)
        return self.head(self.pixels(y @ attention).flatten(1))


def densely(widths: int = 9) -> nn.Module:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, widths, 1), nn.Conv2d(widths + 3, widths, 3, padding=1)
            self.c = nn.Conv2d(2 * widths + 3, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.cat([x, self.a(x)], 1)
            return self.c(torch.cat([y, self.b(y)], 1))

    return Dense()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "plain": (lambda: plain(8, 12), image()),
    "residual": (residual, image()),
    "mixed": (Mixed, image()),
    "dense": (densely, image()),
    "batch of four": (lambda: plain(8, 12), torch.zeros(4, 3, 4, 4)),
    "one dimension": (lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.Conv1d(8, 6, 3), nn.Flatten(), nn.Linear(24, 5)),
                      torch.zeros(1, 3, 8)),
    "three dimensions": (lambda: nn.Sequential(nn.Conv3d(3, 8, 2), nn.ReLU(), nn.Conv3d(8, 5, 1)),
                         torch.zeros(1, 3, 4, 4, 4)),
    "resnet20": (lambda: slimcnn.build("resnet20"), torch.zeros(1, 3, 32, 32)),
    "resnet20 B": (lambda: slimcnn.build("resnet20", shortcut="B"), torch.zeros(1, 3, 32, 32)),
    "vgg11": (lambda: slimcnn.build("vgg11", width=0.25), torch.zeros(1, 3, 32, 32)),
}  # fmt: skip


def macs_of(model: nn.Module, example: Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(example[:1])
    return int(counter.get_total_flops() // 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_predicted_macs_and_params_are_those_of_the_cut_network(name: str) -> None:
    build, example = NETWORKS[name]
    model = build()
    graph = trace(model, example)
    assert graph.groups
    assert graph.macs() == macs_of(model, example)
    assert graph.params() == sum(p.numel() for p in model.parameters())
    for seed, target in enumerate(
        (
            Target(pruning_ratio=0.3),
            Target(pruning_ratio=0.5, scope="global"),
            Target(pruning_ratio=0.8),
            Target(macs=0.7),
        )
    ):
        plan = allocate(graph, score(model, graph, "random", seed=seed), target)
        small, counts = prune(model, graph, plan, verify=False), plan.counts(graph)
        assert counts.sum() > 0
        assert graph.macs(counts) == macs_of(small, example)
        assert graph.params(counts) == sum(p.numel() for p in small.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_of_the_cut_network_agrees_with_the_prediction(name: str) -> None:
    build, example = NETWORKS[name]
    model = build()
    graph = trace(model, example)
    plan = allocate(graph, score(model, graph, "l1"), Target(pruning_ratio=0.25))
    again = trace(prune(model, graph, plan, verify=False), example)
    assert (again.macs(), again.params()) == (graph.macs(plan.counts(graph)), graph.params(plan.counts(graph)))


def test_one_channel_less_costs_what_it_makes_and_what_reads_it() -> None:
    """8 channels on 4x4 pixels: 27 weights and a norm of 2 each, read by 12 filters of 9 weights."""
    model = plain(8, 12)
    graph = trace(model, image())
    plan = Plan(graph.fingerprint, {"0": (3,)})
    counts = plan.counts(graph)
    assert graph.macs() - graph.macs(counts) == 16 * (27 + 12 * 9)
    assert graph.params() - graph.params(counts) == 27 + 2 + 12 * 9


def test_a_square_weight_of_one_stream_shrinks_on_both_axes() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.again, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, bias=False), nn.Conv2d(8, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.b(y + self.again(y + self.again(y)))

    model = Again()
    graph = trace(model, image())
    plan = Plan(graph.fingerprint, {"a": (0, 5)})
    assert graph.macs(plan.counts(graph)) == 16 * (3 * 6 + 2 * 6 * 6 + 6 * 5)
    small = prune(model, graph, plan)
    assert small.again.weight.shape == (6, 6, 1, 1)
