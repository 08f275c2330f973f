"""Images made from batch-norm statistics: enough to solve layers anew without any image."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import slimcnn
from slimcnn.errors import ModelError


def trained_looking() -> nn.Sequential:
    """A network whose norms remember the statistics of real inputs."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    slimcnn.recalibrate(net, [real_images(256)])
    return net.eval()


def real_images(n: int, seed: int = 1) -> torch.Tensor:
    """Smooth images with a mean of their own."""
    coarse = torch.randn(n, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=12, mode="bilinear") * 2 + 1


def test_norms_see_on_them_what_they_remember() -> None:
    net = trained_looking().requires_grad_(False)
    made = slimcnn.synthesize(net, (3, 12, 12), images=32, steps=150)
    noise = torch.randn(32, 3, 12, 12)
    for depth in (0, 3):
        norm = net[depth + 1]
        gaps = []
        for x in (made, noise):
            seen = net[: depth + 1](x)
            gaps.append(float(((seen.mean((0, 2, 3)) - norm.running_mean).square() / norm.running_var).mean()))
        assert gaps[0] < 0.3 * gaps[1]


def test_least_squares_on_them_helps_on_real_images() -> None:
    net = trained_looking()
    graph = slimcnn.trace(net, torch.zeros(1, 3, 12, 12))
    plan = slimcnn.allocate(graph, slimcnn.score(net, graph, "l2"), slimcnn.Target(pruning_ratio=0.5))
    small = slimcnn.prune(net, graph, plan)
    judges = real_images(64, seed=2)
    before = (small(judges) - net(judges)).square().mean()
    slimcnn.least_squares(small, net, graph, plan, [slimcnn.synthesize(net, (3, 12, 12), images=32, steps=60)])
    assert (small(judges) - net(judges)).square().mean() < 0.5 * before


def test_a_seed_makes_the_same_images_and_the_network_stays_as_it_was() -> None:
    net = trained_looking().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    flags = [parameter.requires_grad for parameter in net.parameters()]
    one, again = (slimcnn.synthesize(net, (3, 12, 12), images=4, steps=3, seed=5) for _ in range(2))
    assert torch.equal(one, again)
    assert not one.requires_grad
    assert net.training
    assert [parameter.requires_grad for parameter in net.parameters()] == flags
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_a_network_without_batch_norm_is_refused() -> None:
    with pytest.raises(ModelError, match="give real images"):
        slimcnn.synthesize(nn.Sequential(nn.Conv2d(3, 4, 1)), (3, 8, 8))
