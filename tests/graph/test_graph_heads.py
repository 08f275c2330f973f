"""Attention heads that run one by one, as in EfficientViT: what each reads and makes follows a cut."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from traced import half_of_everything, image, reasons, sizes, traced

from slimcnn.graph import trace

Conv = nn.Conv2d


class Cascade(nn.Module):
    """Every head reads a part of the channels, and the output of the head before; `width` is that of all heads."""

    def __init__(self, channels: int, heads: int, key: int, keep: bool = True) -> None:
        super().__init__()
        self.key = key
        self.keep = keep
        self.literal = {"width": channels // heads}  # not a list or tuple: nothing follows a cut here
        self.width = channels // heads
        self.made = nn.ModuleList(Conv(self.width, 2 * key + self.width, 1) for _ in range(heads))
        self.bias = nn.Parameter(torch.randn(heads, 64, 64))
        self.out = Conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        width = self.width if self.keep else self.literal["width"]
        parts = x.chunk(len(self.made), 1)
        y, made = parts[0], []
        for i, head in enumerate(self.made):
            y = y + parts[i] if i else y
            q, k, v = head(y).split([self.key, self.key, width], 1)
            scores = (q.flatten(2).transpose(1, 2) @ k.flatten(2) + self.bias[i]).softmax(-1)
            y = (v.flatten(2) @ scores.transpose(1, 2)).view(n, width, h, w)
            made.append(y)
        return self.out(torch.cat(made, 1).relu())


def network(keep: bool = True, key: int = 3) -> nn.Sequential:
    return nn.Sequential(Conv(3, 16, 1), Cascade(16, 2, key, keep), nn.BatchNorm2d(16), Conv(16, 5, 1))


def test_one_width_of_all_heads_follows_a_cut_and_the_heads_lose_equal_numbers() -> None:
    model = network()
    graph = traced(model)
    assert sizes(graph) == {"0[0-7]": 8, "0[8-15]": 8, "1.made.1[6-13]": 8, "1.out": 16}
    assert [(size.module, size.name) for size in graph.sizes] == [("1", "width")]
    assert [sorted(graph.groups[i].name for i in bundle) for bundle in graph.bundles] == [
        ["0[0-7]", "0[8-15]", "1.made.1[6-13]"], ["1.out"],
    ]  # fmt: skip
    small = half_of_everything(model)
    assert small[1].width == 4
    assert model[1].width == 8
    again = half_of_everything(small)
    assert again[1].width == 2


def test_queries_and_keys_stay_because_their_products_are_summed() -> None:
    assert "summed over in a product of two activations or two weights" in reasons(traced(network()))["1.made.0"]


def test_a_width_of_all_heads_that_cannot_follow_locks_them() -> None:
    graph = traced(network(keep=False))
    assert sizes(graph) == {"1.out": 16}
    assert "hard-coded size in the code" in str(reasons(graph)["0"])


def test_a_width_that_may_be_that_of_the_queries_stays() -> None:
    """`key` and `width` are both 8: which of the two a line of code means is unknown."""
    assert sizes(traced(network(key=8))) == {"1.out": 16}


def test_a_bias_that_is_picked_by_the_number_of_the_head_stays() -> None:
    graph = trace(network(), image())
    assert all(axis.parameter != "1.bias" for group in graph.groups for axis in group.axes)
