"""The head of a classifier is found by what it computes, and replaced in a copy; an unclear one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import slimcnn
from slimcnn.errors import ModelError
from slimcnn.rewriting import find_head

IMAGE = torch.zeros(1, 3, 8, 8)


def body() -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5)]


def linear(*after: nn.Module) -> nn.Sequential:
    return nn.Sequential(*body(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5), *after)


def convolutional() -> nn.Sequential:
    """As in SqueezeNet: the convolution is followed by an activation and pooling."""
    return nn.Sequential(*body(), nn.Conv2d(6, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Branches(nn.Module):
    """Features, and one or two heads on them."""

    def __init__(self, combine: str) -> None:
        super().__init__()
        self.features = nn.Sequential(*body(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.first, self.second = nn.Linear(6, 5), nn.Linear(6, 5)
        self.weight = nn.Parameter(torch.ones(5, 6))
        self.combine = combine

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        if self.combine == "average":
            return (self.first(x) + self.second(x)) / 2
        if self.combine == "functional":
            return nn.functional.linear(x, self.weight)
        if self.combine == "offset":
            return self.first(x) + torch.arange(5)
        return self.first(x).softmax(1)


@pytest.mark.parametrize(("make", "name"), [(linear, "6"), (convolutional, "4")])
def test_a_new_head_leaves_everything_else_and_the_users_network_as_it_was(
    make: type[nn.Sequential], name: str, tmp_path: Path
) -> None:
    net = make()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    new = slimcnn.replace_head(net, IMAGE, 3, seed=1)
    assert find_head(net, IMAGE).name == name
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())
    assert net(torch.randn(2, 3, 8, 8)).shape == (2, 5)
    assert new(torch.randn(2, 3, 8, 8)).shape == (2, 3)
    assert all(module.training for module in (*net.modules(), *new.modules())), "modes are restored"
    assert {key for key, tensor in net.state_dict().items() if not torch.equal(tensor, before[key])} == {
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    }
    changed = {key for key, tensor in new.state_dict().items() if tensor.shape != before[key].shape}
    assert changed == {f"{name}.weight", f"{name}.bias"}
    same = slimcnn.replace_head(make(), IMAGE, 3, seed=1)
    assert torch.equal(same[int(name)].weight, new[int(name)].weight)
    again = slimcnn.load(slimcnn.save(new, tmp_path / "new.safetensors"), make())
    assert again[int(name)].weight.shape[0] == 3


def test_a_pruned_network_of_a_known_name_gets_a_head_and_loads_without_the_call(tmp_path: Path) -> None:
    net = slimcnn.build("resnet8", in_channels=1)
    graph = slimcnn.trace(net, torch.zeros(1, 1, 8, 8))
    small = slimcnn.prune(
        net, graph, slimcnn.allocate(graph, slimcnn.score(net, graph, "l2"), slimcnn.Target(macs=0.5))
    )
    new = slimcnn.replace_head(small, graph.example, 26).eval()
    assert new.architecture["arguments"]["num_classes"] == 26
    again = slimcnn.load(slimcnn.save(new, tmp_path / "new.safetensors"))
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(again(x), new(x))


@pytest.mark.parametrize(
    ("net", "within", "said"),
    [
        (Branches("average"), "", r"the network has 2 heads \(first, second\), whose outputs are combined"),
        (Branches("functional"), "", "cannot be found: .*; first, second have 5 outputs, but other operations mix or"),
        (Branches("softmax"), "", "computes its 5 scores one for one"),
        (Branches("offset"), "", "does not work with 3 instead of 5 outputs of first: something after it has a fixed"),
        (linear(nn.BatchNorm1d(5)), "", "does not work with 3 instead of 5 outputs of 6"),
        (linear(), "nowhere", "head = 'nowhere': the network has no module of this name"),
        (linear(), "0", "no linear layer or 1 x 1 convolution in 0 computes"),
        (nn.Sequential(*body()), "", r"the network returns \(1, 6, 6, 6\), not scores"),
        (nn.utils.parametrizations.weight_norm(linear()[6]), "", "does not accept images"),
    ],
)
def test_a_head_that_is_not_clear_is_refused_with_the_reason(net: nn.Module, within: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        slimcnn.replace_head(net, IMAGE, 3, within=within)


def test_a_computed_head_is_refused() -> None:
    net = linear()
    nn.utils.parametrizations.weight_norm(net[6])
    with pytest.raises(ModelError, match="the weight of 6, the head, is computed or shared"):
        slimcnn.replace_head(net, IMAGE, 3)
