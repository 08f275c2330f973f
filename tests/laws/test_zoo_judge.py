"""The zoo's judge: it can read every number's address, and it sees a channel that was cut in the wrong place."""

from __future__ import annotations

import copy

import pytest
import torch
import zoo_law
import zoo_networks
import zoo_packages
from torch import nn


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Sigmoid(), nn.Conv2d(8, 6, 3), nn.Flatten())


def plain_without(net: nn.Sequential, made: int, read: int) -> nn.Sequential:
    """The chain without one channel between its convolutions, made at one place and read at another."""
    small = plain()
    out, into = ([c for c in range(8) if c != gone] for gone in (made, read))
    small[0], small[1], small[3] = nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.Conv2d(7, 6, 3)
    small[0].weight.data, small[0].bias.data = net[0].weight.data[out], net[0].bias.data[out]
    for name, tensor in net[1].state_dict().items():
        if tensor.dim():
            getattr(small[1], name).data = tensor[out]
    small[3].weight.data, small[3].bias.data = net[3].weight.data[:, into], net[3].bias.data
    return small


@pytest.mark.parametrize(
    ("code", "count"),
    [(zoo_law.Code(scale=0.25), 100_000), (zoo_law.Code(low=0.5), 5_000), (zoo_law.Code(low=-0.5), 5_000)],
)
def test_every_number_tells_its_position_and_no_two_are_equal(code: zoo_law.Code, count: int) -> None:
    numbers = code.numbers(count)
    assert numbers.dtype is torch.float32
    assert torch.equal(code.positions(numbers), torch.arange(count))
    assert len(numbers.unique()) == count
    low, high = (-0.25, 0.25) if code.scale else (code.low, code.low + 1)
    assert low <= float(numbers.min()) < float(numbers.max()) < high


def test_an_honest_cut_is_exact_and_one_that_is_read_elsewhere_is_not() -> None:
    net = plain().eval()
    codes = zoo_law.address(net)
    example = torch.zeros(1, 3, 9, 9)
    honest = zoo_law.judge(copy.deepcopy(net), plain_without(net, 5, 5), codes, example)
    assert honest.equal
    assert honest.change > 0.01
    wrong = zoo_law.judge(copy.deepcopy(net), plain_without(net, 5, 4), codes, example)
    assert not wrong.equal
    assert wrong.error > 1e-3


def test_numbers_that_were_not_in_the_original_are_noticed() -> None:
    net = plain().eval()
    codes = zoo_law.address(net)
    other = plain_without(net, 5, 5)
    other[3].weight.data.uniform_(0.001, 0.002)
    with pytest.raises(ValueError, match=r"3\.weight holds values that are not in the original"):
        zoo_law.judge(net, other, codes, torch.zeros(1, 3, 9, 9))


def test_the_zoo_names_each_network_once_and_they_exist() -> None:
    import timm
    import torchvision

    names = zoo_networks.names()
    assert len(names) == len(set(names))
    known = set(timm.list_models())
    assert {name.removeprefix("timm:") for name in names if name.startswith("timm:")} <= known
    assert len(zoo_networks.TIMM) >= 150
    classification = set(torchvision.models.list_models(module=torchvision.models))
    covered = {name.removeprefix("torchvision:") for name in names if name.startswith("torchvision:")}
    assert covered == classification - set(zoo_networks.TRANSFORMERS)


def test_a_network_that_is_right_at_one_image_size_only_is_seen_at_another() -> None:
    class Fixed(nn.Module):
        def __init__(self, net: nn.Sequential, width: int) -> None:
            super().__init__()
            self.net, self.width = net[:4], width

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.net(x)
            return made * (1 + (made.shape[-1] > 5) * self.width)

    net = plain().eval()
    codes = {f"net.{name}": code for name, code in zoo_law.address(net).items()}
    masked, small, example = Fixed(net, 8), Fixed(plain_without(net, 5, 5), 7), torch.zeros(1, 3, 9, 9)
    judgment = zoo_law.judge(masked, small, codes, example)
    assert judgment.equal
    assert zoo_law.error_at(masked, small, torch.zeros(1, 3, 9, 9), judgment.dtype) < 1e-9
    assert zoo_law.error_at(masked, small, zoo_networks.larger(example), judgment.dtype) > 1e-3


def test_a_network_without_tensors_in_its_output_is_not_called_equal() -> None:
    net = plain().eval()
    codes = zoo_law.address(net)
    silent = nn.Sequential(*net)
    silent.forward = lambda x: "nothing"  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="no tensors in the output"):
        zoo_law.judge(silent, silent, codes, torch.zeros(1, 3, 9, 9))


def test_the_networks_of_other_packages_are_named_once_and_each_package_has_a_builder() -> None:
    names = zoo_packages.names()
    assert len(names) == len(set(names)) >= 60
    assert {name.partition(":")[0] for name in names} == set(zoo_packages.PACKAGES) == set(zoo_packages.BUILDERS)
    assert set(zoo_packages.missing_packages()) <= set(zoo_packages.PACKAGES)
