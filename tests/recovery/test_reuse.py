"""A network that reuses features begins with what the trained one knew: exactly, where that can be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import slimcnn
from at_hand import mostly_slow, randomize
from slimcnn.errors import DataError, ModelError
from slimcnn.recovery import reuse_features
from slimcnn.recovery.reuse import _matched

Conv = nn.Conv2d


def images(n: int = 256, channels: int = 3, size: int = 8) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def error(model: nn.Module, original: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((model(x) - original(x)).abs().max() / original(x).abs().max())


def copying_pair() -> nn.Sequential:
    """A pair whose second layer passes on four features of the first and makes four others of the same four."""
    torch.manual_seed(0)
    net = nn.Sequential(
        Conv(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), Conv(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip
    passed_on, into = [5, 0, 3, 6], [1, 2, 4, 7]
    with torch.no_grad():
        weight = torch.zeros_like(net[3].weight)
        for one, other in zip(passed_on, into, strict=True):
            weight[other, one, 1, 1] = 2.0
        others = [c for c in range(8) if c not in into]
        weight[torch.tensor(others)[:, None], torch.tensor(passed_on)] = torch.randn(4, 4, 3, 3) / 6
        net[3].weight.copy_(weight)
        net[3].bias.zero_()
    return net


def test_a_pair_that_passes_its_features_on_is_found_out_and_rebuilt_exactly() -> None:
    original = copying_pair()
    small = slimcnn.replace(original, "feature_reuse", images(1))
    found = reuse_features(small, original, [images()])
    assert error(small, original, images(32) + 0.1) < 1e-4
    assert found.after < 1e-8
    assert slimcnn.measure(small, images(1)).params < slimcnn.measure(original, images(1)).params


class Block(nn.Module):
    """A residual block whose first half is a function of x alone, and whose second is one of that."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = Conv(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = Conv(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + x)


def linear_block() -> nn.Sequential:
    """conv1 makes b and -b, so that conv2 can give b itself, relu(b) - relu(-b), beside functions of relu(b)."""
    torch.manual_seed(0)
    net = nn.Sequential(
        Conv(3, 8, 3, padding=1), nn.ReLU(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )
    block = net[2]
    with torch.no_grad():
        block.conv1.weight[4:] = -block.conv1.weight[:4]
        block.conv2.weight.zero_()
        for c in range(4):
            block.conv2.weight[c, c, 1, 1], block.conv2.weight[c, c + 4, 1, 1] = 1.0, -1.0
        block.conv2.weight[4:, :4] = torch.randn(4, 4, 3, 3)
    return net.eval()


def test_a_residual_block_of_that_form_is_rebuilt_exactly() -> None:
    original = linear_block()
    small = slimcnn.replace(original, "feature_reuse", images(1))
    reuse_features(small, original, [images()])
    assert error(small, original, images(32) + 0.1) < 1e-4


VARIANTS = ["pair", "chain", "half", "dense", "pair,transition=concat", "half,transition=concat"]


@pytest.mark.parametrize(
    ("network", "rewrite"),
    mostly_slow(
        [(network, rewrite) for network in ("vgg16", "resnet20", "resnet164") for rewrite in VARIANTS],
        [("vgg16", "dense"), ("vgg16", "pair,transition=concat"), ("resnet20", "chain"), ("resnet20", "half")],
    ),
)
def test_it_brings_every_rewritten_network_nearer_to_the_original(network: str, rewrite: str) -> None:
    torch.manual_seed(0)
    original = slimcnn.build(network, width=0.25).eval()
    randomize(original)
    state = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    random = slimcnn.replace(original, f"feature_reuse:variant={rewrite}")
    small = slimcnn.replace(original, f"feature_reuse:variant={rewrite}")
    small.train()
    x = images(48, size=32)
    found = reuse_features(small, original, [x[:32], x[32:]])
    assert small.training
    assert found.after < found.before
    small.eval()
    with torch.no_grad():
        distances = [(one(x) - original(x)).square().mean() for one in (small, random)]
    assert distances[0] < distances[1]
    assert all(torch.equal(state[name], tensor) for name, tensor in original.state_dict().items())


def test_features_are_matched_once_each_the_most_alike_first() -> None:
    torch.manual_seed(0)
    x = torch.randn(500, 3, dtype=torch.float64)
    noise = torch.randn(500, 4, dtype=torch.float64)
    y = torch.stack([x[:, 2] + noise[:, 0], noise[:, 1], -3 * x[:, 2], x[:, 0] + 0.1 * noise[:, 2]], 1)
    found = _matched(x, y, 2)
    assert list(zip(found.reused.tolist(), found.stand_for.tolist(), strict=True)) == [(2, 2), (0, 3)]
    assert found.scale.tolist() == pytest.approx([-3, 1], abs=0.05)
    assert found.made.tolist() == [0, 1]


def test_features_that_do_not_vary_match_nothing() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 2, dtype=torch.float64)
    x[:, 0] *= 1e-6
    y = torch.stack([x[:, 0] * 1e6, x[:, 1] + torch.randn(200)], 1)
    assert _matched(x, y, 1).reused.tolist() == [1]


def test_other_networks_and_no_images_are_refused() -> None:
    original = slimcnn.build("resnet20").eval()
    small = slimcnn.replace(original, "feature_reuse")
    with pytest.raises(ModelError, match="no feature reuse units"):
        reuse_features(original, original, [images(4, size=32)])
    with pytest.raises(ModelError, match="not rewritten from this original"):
        reuse_features(small, slimcnn.build("resnet32").eval(), [images(4, size=32)])
    with pytest.raises(ModelError, match="not rewritten from this original"):
        reuse_features(small, slimcnn.build("vgg11").eval(), [images(4, size=32)])
    with pytest.raises(DataError, match="no images"):
        reuse_features(small, original, [])
    with pytest.raises(DataError, match="not finite"):
        reuse_features(small, original, [images(4, size=32) / 0])
