"""The law on networks that nobody thought of: blocks in a random order, cut at random."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from at_hand import randomize, some_channels
from slimcnn.graph import trace
from slimcnn.layers.channel_pad import ChannelPad
from slimcnn.pruning import mask, prune, verify

Conv = nn.Conv2d


class Block(nn.Module):
    """Modules, the function that runs them, and how many channels come out."""

    def __init__(self, out: int, run: Callable[..., Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.out, self.run, self.parts = out, run, nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, *self.parts)


def made(read: int, width: int, **options: int) -> nn.Sequential:
    return nn.Sequential(Conv(read, width, 1, **options), nn.BatchNorm2d(width), nn.ReLU())  # type: ignore[arg-type]


def shuffled(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def join(*parts: Tensor) -> Tensor:
    return torch.cat(parts, 1)


def assigned(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x).clone()
    y[:, : y.shape[1] // 2] = y[:, y.shape[1] // 2 :] * 2
    return y


class KeptWidth(nn.Module):
    """Splits by a width that it keeps, as Res2Net does."""

    def __init__(self, read: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.conv, self.inner = made(read, 2 * width), made(width, width)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.conv(x).split(self.width, 1)
        return join(first, self.inner(second))


BLOCKS: dict[str, Callable[[int, int], Block]] = {
    "convolution": lambda read, width: Block(width, lambda x, a: a(x), made(read, width)),
    "residual": lambda read, width: Block(
        read, lambda x, a, b: F.relu(x + b(a(x))), made(read, width), Conv(width, read, 1)
    ),
    "two branches": lambda read, width: Block(width, lambda x, a, b: a(x) * b(x), made(read, width), made(read, width)),
    "dense": lambda read, width: Block(read + width, lambda x, a: join(x, a(x)), made(read, width)),
    "twice the same": lambda read, width: Block(2 * read, lambda x: join(x, x.tanh())),
    "grouped": lambda read, width: Block(width, lambda x, a: a(x), made(read, width, groups=4)),
    "depthwise": lambda read, width: Block(2 * read, lambda x, a: a(x), made(read, 2 * read, groups=read)),
    "transposed": lambda read, width: Block(width, lambda x, a: a(x), nn.ConvTranspose2d(read, width, 1)),
    "gate": lambda read, width: Block(
        read, lambda x, a, b: x * b(a(x.mean((2, 3), keepdim=True))).sigmoid(), made(read, width), Conv(width, read, 1)
    ),
    "halves": lambda read, width: Block(read // 2, lambda x: (y := x.chunk(2, 1))[0] * y[1].sigmoid()),
    "slices": lambda read, width: Block(read, lambda x: join(x[:, x.shape[1] // 2 :], x[:, : x.shape[1] // 2])),
    "a quarter": lambda read, width: Block(read, lambda x: join(x[:, : x.shape[1] // 4] * 2, x[:, x.shape[1] // 4 :])),
    "shuffle": lambda read, width: Block(read, shuffled),
    "flip": lambda read, width: Block(read, lambda x: x.flip(1)),
    "again and again": lambda read, width: Block(read, lambda x, a: x + a(x + a(x)), made(read, read)),
    "a written size": lambda read, width: Block(read, lambda x: x.view(-1, read, 4, 4)),
    "normalized": lambda read, width: Block(read, lambda x, a: a(x), nn.GroupNorm(2, read)),
    "scaled": lambda read, width: Block(read, lambda x, a: a(x), nn.PReLU(read)),
    "unstacked": lambda read, width: Block(read, lambda x: torch.stack([y.relu() for y in x.unbind(1)], 1)),
    "picked": lambda read, width: Block(read, lambda x: x + x[:, 1:2].sigmoid()),
    "numbered": lambda read, width: Block(
        read, lambda x: torch.stack([y * (i + 1) for i, y in enumerate(x.unbind(1))], 1)
    ),
    "rolled": lambda read, width: Block(read, lambda x: x.roll(1, 1)),
    "even and odd": lambda read, width: Block(read, lambda x: join(x[:, ::2], x[:, 1::2])),
    "assigned": lambda read, width: Block(width, assigned, made(read, width)),
    "pairs": lambda read, width: Block(2 * read, lambda x: torch.stack([x, x.relu()], 2).flatten(1, 2)),
    "repeated": lambda read, width: Block(2 * read, lambda x: x.repeat(1, 2, 1, 1)),
    "pooled": lambda read, width: Block(read, lambda x: F.avg_pool2d(x, 3, 1, 1)),
    "glu": lambda read, width: Block(read // 2, lambda x: F.glu(x, 1)),
    "pixels": lambda read, width: Block(
        width, lambda x, a: F.avg_pool2d(F.pixel_shuffle(a(x), 2), 2), made(read, 4 * width)
    ),
    "pixels back": lambda read, width: Block(
        4 * read, lambda x: F.interpolate(F.pixel_unshuffle(x, 2), scale_factor=2)
    ),
    "channels last": lambda read, width: Block(
        width, lambda x, a: a(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.Linear(read, width)
    ),
    "layer norm": lambda read, width: Block(
        read, lambda x, a: a(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.LayerNorm(read)
    ),
    "instance norm": lambda read, width: Block(read, lambda x, a: a(x), nn.InstanceNorm2d(read, affine=True)),
    "selected": lambda read, width: Block(
        read, lambda x: x.index_select(1, torch.arange(x.shape[1] - 1, -1, -1)) * x.sigmoid()
    ),
    "padded": lambda read, width: Block(read + 4, lambda x: F.pad(x, (0, 0, 0, 0, 1, 3))),
    "interleaved": lambda read, width: Block(2 * read, lambda x: x.repeat_interleave(2, 1)),
    "spatial attention": lambda read, width: Block(
        read, lambda x, a: x * a(join(x.mean(1, True), x.amax(1, True))).sigmoid(), Conv(2, 1, 3, padding=1)
    ),
    "einsum": lambda read, width: Block(
        width, lambda x, a: torch.einsum("nchw,dc->ndhw", x, a.weight), nn.Linear(read, width, bias=False)
    ),
    "product": lambda read, width: Block(
        width,
        lambda x, a: (x.flatten(2).transpose(1, 2) @ a.weight.t()).transpose(1, 2).unflatten(2, (4, 4)),
        nn.Linear(read, width),
    ),
    "one dimension": lambda read, width: Block(
        width, lambda x, a: a(x.flatten(2)).unflatten(2, (4, 4)), nn.Conv1d(read, width, 3, padding=1)
    ),
    "three dimensions": lambda read, width: Block(
        width, lambda x, a: a(x.unsqueeze(2)).squeeze(2), nn.Conv3d(read, width, 1)
    ),
    "transposed in groups": lambda read, width: Block(
        width, lambda x, a: a(x), nn.ConvTranspose2d(read, width, 1, groups=4)
    ),
    "weight norm": lambda read, width: Block(
        width, lambda x, a: a(x), parametrizations.weight_norm(Conv(read, width, 1))
    ),
    "spectral norm": lambda read, width: Block(
        width, lambda x, a: a(x), parametrizations.spectral_norm(Conv(read, width, 1))
    ),
    "tied": lambda read, width: Block(
        read, lambda x, a: F.conv2d(F.relu(a(x)), a.weight.transpose(0, 1)), Conv(read, width, 1)
    ),
    "checkpointed": lambda read, width: Block(
        width, lambda x, a: checkpoint(a, x, use_reentrant=False), made(read, width)
    ),
    "parts added": lambda read, width: Block(read // 2, lambda x: x.unflatten(1, (2, -1)).sum(1)),
    "kept width": lambda read, width: Block(2 * width, lambda x, a: a(x), KeptWidth(read, width)),
    "padded shortcut": lambda read, width: Block(read + 4, lambda x, a: a(x), ChannelPad(2, 2)),
}

chains = st.lists(st.tuples(st.sampled_from(sorted(BLOCKS)), st.sampled_from([8, 12, 16])), min_size=2, max_size=7)


def network(chain: list[tuple[str, int]]) -> nn.Module:
    blocks: list[nn.Module] = [made(3, 8)]
    width = 8
    for kind, wanted in chain:
        if width > 48 or width % 8:
            kind = "convolution"
        block = BLOCKS[kind](width, wanted)
        blocks.append(block)
        width = block.out
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 5))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(chains, st.integers(0, 2**31))
@example([("dense", 12), ("glu", 16), ("rolled", 16), ("a quarter", 16), ("picked", 8)], 0)
@example([("kept width", 12), ("shuffle", 16), ("unstacked", 8), ("transposed in groups", 8)], 2)
@example([("halves", 12), ("glu", 8), ("kept width", 8), ("rolled", 8), ("a quarter", 16), ("picked", 8)], 6)
@example([("one dimension", 16), ("gate", 8), ("glu", 12), ("einsum", 8), ("instance norm", 16), ("shuffle", 16),
          ("slices", 8), ("pixels", 16)], 0)  # fmt: skip
def test_the_law_holds_on_any_chain_of_blocks(chain: list[tuple[str, int]], seed: int) -> None:
    assert_law(chain, seed)


@pytest.mark.slow
@settings(max_examples=500, deadline=None, derandomize=True)
@given(chains, st.integers(0, 2**31))
def test_the_law_holds_on_ten_times_as_many_chains(chain: list[tuple[str, int]], seed: int) -> None:
    assert_law(chain, seed)


def assert_law(chain: list[tuple[str, int]], seed: int) -> None:
    torch.manual_seed(seed)
    model = network(chain)
    randomize(model)
    graph = trace(model, torch.zeros(1, 3, 4, 4))
    event("something to cut" if graph.groups else "nothing to cut")
    for turn in range(2):
        plan = some_channels(graph, seed % 1000 + turn)
        small = prune(model, graph, plan, verify=False)
        verdict = verify(mask(model, graph, plan), small, graph, plan)
        assert verdict.equal, f"{verdict}; removed {plan.removed}"
        assert verdict.error < 1e-9
        assert small.train()(torch.randn(2, 3, 4, 4)).shape == (2, 5)
        assert graph.params(plan.counts(graph)) == sum(p.numel() for p in small.parameters())


def test_chains_of_ordinary_blocks_have_something_to_cut() -> None:
    ordinary = ["convolution", "residual", "dense", "gate", "depthwise", "halves"]
    graph = trace(network([(kind, 8) for kind in ordinary]), torch.zeros(1, 3, 4, 4))
    assert len(graph.groups) >= 4
