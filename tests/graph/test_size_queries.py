"""A trial cut is made where the network's code could tell a cut copy from the whole, and only there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from traced import image, sizes, traced

import slimcnn
from at_hand import Net
from slimcnn.graph import trace, tracing

Conv = nn.Conv2d


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of the trial cuts that are made."""
    made: list[int] = []

    def counting(*given: object) -> object:
        made.append(given[-1])  # type: ignore[arg-type]
        return trial_prune(*given)  # type: ignore[arg-type]

    trial_prune = tracing.trial_prune
    monkeypatch.setattr(tracing, "trial_prune", counting)
    return made


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "vgg11_bn", "mobilenet_v2", "regnet_y_400mf"])
def test_a_network_that_never_asks_for_a_size_is_traced_in_one_run(name: str, trials: list[int]) -> None:
    assert trace(getattr(torchvision.models, name)(weights=None), image(size=64)).groups
    assert trials == []


def tail(n: Net, y: Tensor) -> Tensor:
    answer: Tensor = n.b(y).flatten(1)
    return answer


def checked(n: Net, x: Tensor) -> Tensor:
    y = n.a(x)
    assert y.shape[1] == 8, f"{y.shape[1]} channels instead of 8"
    return tail(n, y)


def decided(n: Net, x: Tensor) -> Tensor:
    y = n.a(x)
    return tail(n, y.relu() if y.size(1) == 8 else y)


def counted(n: Net, x: Tensor) -> Tensor:
    y = n.a(x)
    return tail(n, y.relu() if len(y[0]) == 8 else y)


def viewed(n: Net, x: Tensor) -> Tensor:
    return tail(n, n.a(x).view(-1, 8, 8, 8))


def scaled(n: Net, x: Tensor) -> Tensor:
    return tail(n, n.a(x) * n.a.out_channels**-0.5)


def sharpened(n: Net, x: Tensor) -> Tensor:
    return tail(n, F.leaky_relu(n.a(x), 1 / n.a.out_channels))


@pytest.mark.parametrize("run", [checked, decided, counted, viewed, scaled, sharpened])
def test_code_that_depends_on_the_number_of_channels_is_found_out(
    run: Callable[[Net, Tensor], Tensor], trials: list[int]
) -> None:
    graph = traced(Net(run, a=Conv(3, 8, 1), b=Conv(8, 5, 1)))
    assert trials
    assert "a" not in sizes(graph)


def test_a_size_that_is_asked_for_but_steers_nothing_leaves_the_channels_free(trials: list[int]) -> None:
    graph = traced(Net(lambda n, x: tail(n, n.a(x)[:, :, : x.shape[2] // 2]), a=Conv(3, 8, 1), b=Conv(8, 5, 1)))
    assert trials
    assert sizes(graph) == {"a": 8}


def test_a_number_that_an_activation_was_made_with_asks_nothing(trials: list[int]) -> None:
    slimcnn.trace(nn.Sequential(Conv(3, 8, 1), nn.ReLU6(), nn.LeakyReLU(0.1), Conv(8, 5, 1)), image())
    assert trials == []
