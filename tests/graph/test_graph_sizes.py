"""Numbers of channels that modules keep as attributes follow a cut; numbers that channels are scaled by do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from traced import half_of_everything, image, reasons, sizes, traced

import slimcnn
from at_hand import Net
from slimcnn.errors import CheckpointError
from slimcnn.graph import trace

Conv = nn.Conv2d


class Parted(nn.Module):
    """Parts its channels by numbers that it keeps."""

    def __init__(self, by: str, **attributes: Any) -> None:
        super().__init__()
        self.by = by
        self.a, self.b, self.c = Conv(3, 24, 1), Conv(24, 24, 1), Conv(24, 5, 1)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.by == "width":
            first, second = y.split(self.width, 1)
            y = torch.cat([first.relu(), second], 1)
        elif self.by == "widths":
            first, second, third = y.split(self.widths, 1)
            y = torch.cat([first.relu(), second, third.tanh()], 1)
        elif self.by == "half of the width":
            y = torch.cat([y[:, : self.width // 2].relu(), y[:, self.width // 2 :]], 1)
        elif self.by == "shape":
            y = y * self.scale.view(self.shape)
        elif self.by == "divisor":
            y = torch.cat([y[:, : self.width].relu(), y[:, self.width :]], 1) / self.width
        elif self.by == "a number in the code":
            y = torch.cat([y[:, :12].relu(), y[:, 12:]], 1).view(-1, 24, 8, 8)
        return self.c(self.b(y).relu())


@pytest.mark.parametrize(("by", "attributes"), [
    ("width", {"width": 12}), ("widths", {"widths": [8, 6, 10]}), ("widths", {"widths": (8, 8, 8)}),
    ("half of the width", {"width": 24}), ("shape", {"shape": (24, 1, 1), "scale": nn.Parameter(torch.rand(24))}),
])  # fmt: skip
def test_a_number_that_a_module_keeps_follows_a_cut(by: str, attributes: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Parted(by, **attributes)
    graph = traced(model)
    assert sum(group.channels for group in graph.groups) == 48
    small = half_of_everything(model)
    name, before = next(iter(attributes.items()))
    assert getattr(model, name) == before
    after = getattr(small, name)
    assert type(after) is type(before)
    assert after != before
    assert sum(after) < sum(before) if isinstance(before, list | tuple) else after == before // 2
    assert sum(group.channels for group in trace(small, image()).groups) == 24, "a second cut finds the number again"
    again = half_of_everything(small)
    assert getattr(again, name) != after
    assert again(torch.randn(2, 3, 8, 8)).shape == (2, 5, 8, 8)
    slimcnn.save(small, tmp_path / "net.safetensors")
    loaded = slimcnn.load(tmp_path / "net.safetensors", Parted(by, **attributes))
    x = torch.randn(2, 3, 8, 8)
    assert getattr(loaded, name) == after
    assert torch.equal(loaded(x), small.eval()(x))


def test_the_same_number_that_the_code_does_not_use_helps_nothing_and_stays() -> None:
    model = Parted("a number in the code", width=24)
    graph = traced(model)
    assert sizes(graph) == {"b": 24}
    assert set(reasons(graph)) == {"a"}
    assert graph.sizes == ()


def test_a_number_that_also_scales_the_channels_must_stay() -> None:
    graph = traced(Parted("divisor", width=12))
    assert sizes(graph) == {"b": 24}
    assert set(reasons(graph)) == {"a"}


@pytest.mark.parametrize("scale", [
    lambda y: y / y.shape[1], lambda y: y + torch.tensor(1 / y.shape[1]), lambda y: y.clamp(max=y.shape[1] / 10),
    lambda y: torch.add(y, y, alpha=y.shape[1]),
])  # fmt: skip
def test_channels_that_are_scaled_by_their_number_stay(scale: Any) -> None:
    graph = traced(Net(lambda n, x: n.b(scale(n.a(x))), a=Conv(3, 8, 1), b=Conv(8, 5, 1)))
    assert sizes(graph) == {}
    assert reasons(graph) == {"a": {"scaled or shifted by a value that depends on the number of channels"}}


def test_a_file_may_not_write_to_what_is_no_number_of_channels(tmp_path: Path) -> None:
    model = Parted("width", width=12)
    small = half_of_everything(model)
    slimcnn.save(small, tmp_path / "net.safetensors")
    for other in ({"width": "six"}, {"width": 12.0}, {"width": [12]}, {}):
        with pytest.raises(CheckpointError, match="is for another network"):
            slimcnn.load(tmp_path / "net.safetensors", Parted("width", **other))


def test_every_module_of_a_kind_has_its_number_renewed_in_one_go() -> None:
    class Stack(nn.Sequential):
        pass

    blocks = [Parted("width", width=12) for _ in range(3)]
    for block in blocks[:-1]:
        block.c = Conv(24, 3, 1)
    graph = trace(Stack(*blocks), image())
    assert {(size.module, size.name) for size in graph.sizes} == {("0", "width"), ("1", "width"), ("2", "width")}
