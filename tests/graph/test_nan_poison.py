"""An oracle that knows nothing of channel ids: put NaN into one channel and see where NaN is read.

Each sample of a batch carries the poison of one channel. Convolutions and linear layers (depthwise ones apart: they
pass channels on) write down which of their input channels hold NaN and go on with zeros instead, so that
only what reads the channel directly is found. What is found must be what the graph says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimcnn
from at_hand import mostly_slow
from slimcnn.graph import Axis, ChannelGraph, trace

Sites = set[tuple[str, int]]
"""Layers, with the input channel that they read; or batch norms, with the channel that they carry."""

BATCH = 32
"""Channels that are poisoned in one run."""


class Found(NamedTuple):
    """What one channel reaches."""

    reads: Sites
    norms: Sites
    depthwise: Sites


class Handwritten(nn.Module):
    """Chunk, concatenation in another order, grouped and depthwise convolutions, a shuffle, a gate, a flattened end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.left = nn.Conv2d(6, 8, 1)
        self.right = nn.Conv2d(6, 10, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.joined = nn.BatchNorm2d(18)
        self.mix = nn.Conv2d(18, 16, 1)
        self.grouped = nn.Conv2d(16, 12, 3, padding=1, groups=4)
        self.after = nn.Conv2d(12, 16, 1, groups=2)
        self.gate = nn.Linear(16, 16)
        self.wide = nn.ConvTranspose2d(16, 5, 2, stride=2)
        self.head = nn.Linear(5 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.norm(self.stem(x)).relu().chunk(2, dim=1)
        left = self.depthwise(F.silu(self.left(left)))
        x = self.mix(self.joined(torch.cat([self.right(right), left], dim=1)).relu())
        x = self.grouped(x)
        x = x.unflatten(1, (2, x.shape[1] // 2)).transpose(1, 2).flatten(1, 2)
        x = self.after(x.relu())
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        return self.head(self.wide(x).relu().flatten(1))


def torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision.models

        return torchvision.models.get_model(name, weights=None)

    return build


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "handwritten": (Handwritten, 4, 6),
    "resnet20 with padded shortcuts": (lambda: slimcnn.build("resnet20"), 16, 11),
    "shufflenet_v2_x0_5": (torchvision("shufflenet_v2_x0_5"), 64, 17),
    "mobilenet_v3_small": (torchvision("mobilenet_v3_small"), 64, 27),
    "densenet121": (torchvision("densenet121"), 64, 120),
    "resnext50_32x4d": (torchvision("resnext50_32x4d"), 64, 20),
    "regnet_y_400mf": (torchvision("regnet_y_400mf"), 64, 30),
}
"""Network, its input's height and width, and the fewest groups that a graph worth comparing has."""
OFTEN = {"handwritten", "resnet20 with padded shortcuts", "shufflenet_v2_x0_5", "mobilenet_v3_small"}


def is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd) and module.groups == module.in_channels > 1


def is_reader(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd | nn.Linear)


def nan_channels(x: Tensor, module: nn.Module) -> Tensor:
    """Ask for every sample and channel whether it holds NaN: (n, channels)."""
    rows = x.isnan().movedim(-1 if isinstance(module, nn.Linear) else 1, 1)
    return rows.flatten(2).any(2) if rows.dim() > 2 else rows


class Poisons:
    """Which outputs of which layers turn NaN, sample by sample, and where NaN came in."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.outputs: dict[str, list[tuple[int, list[int]]]] = defaultdict(list)
        self.inputs: dict[str, Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = []
        for name, module in self.model.named_modules():
            if is_reader(module) or isinstance(module, nn.BatchNorm2d):
                handles.append(module.register_forward_pre_hook(self._read(name)))
                handles.append(module.register_forward_hook(self._poison(name)))
        yield
        for handle in handles:
            handle.remove()

    def _read(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Tensor, ...] | None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor, ...] | None:
            here = nan_channels(args[0], module)
            self.inputs[name] = here | self.inputs.get(name, torch.zeros_like(here))
            return (args[0].nan_to_num(),) if is_reader(module) and not is_depthwise(module) else None

        return hook

    def _poison(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            output = output.clone()
            channels_second = output.movedim(-1 if isinstance(module, nn.Linear) else 1, 1)
            for sample, channels in self.outputs.get(name, ()):
                channels_second[sample, channels] = torch.nan
            return output

        return hook

    def found_in(self, sample: int) -> Found:
        found = Found(set(), set(), set())
        for name, rows in self.inputs.items():
            module = self.model.get_submodule(name)
            kind = found.depthwise if is_depthwise(module) else found.reads if is_reader(module) else found.norms
            kind.update((name, channel) for channel in rows[sample].nonzero().flatten().tolist())
        return found


def layer(axis: Axis) -> str:
    return axis.parameter.rpartition(".")[0]


def poisoned(model: nn.Module, graph: ChannelGraph, size: int) -> dict[tuple[int, int], Found]:
    """Give for every (group, channel) all that reads it, whichever layer of the group makes it."""
    cases = [
        (group, channel, axis)
        for group in range(len(graph.groups))
        for channel in sorted({0, graph.groups[group].channels // 2, graph.groups[group].channels - 1})
        for axis in graph.groups[group].filters
    ]
    found: dict[tuple[int, int], Found] = {}
    for some in (cases[start : start + BATCH] for start in range(0, len(cases), BATCH)):
        poisons = Poisons(model)
        for sample, (_, channel, axis) in enumerate(some):
            poisons.outputs[layer(axis)].append((sample, axis.positions[channel].tolist()))
        with poisons.watching(), torch.no_grad():
            model(torch.randn(len(some), 3, size, size))
        for sample, (group, channel, _) in enumerate(some):
            both = found.setdefault((group, channel), Found(set(), set(), set()))
            for all_of_them, here in zip(both, poisons.found_in(sample), strict=True):
                all_of_them |= here
    return found


def told(model: nn.Module, graph: ChannelGraph, index: int, channel: int) -> Found:
    """What the graph says that a channel reaches."""
    group, found = graph.groups[index], Found(set(), set(), set())
    for kind, axes in ((found.reads, group.reads), (found.norms, group.norms)):
        for axis in axes:
            kind.update((layer(axis), position) for position in axis.positions[channel].tolist())
    for axis in group.axes:
        module = model.get_submodule(layer(axis))
        if is_depthwise(module) and axis.axis == 0 and axis.parameter.endswith("weight"):
            per_input = axis.size // module.in_channels
            found.depthwise.update((layer(axis), int(p) // per_input) for p in axis.positions[channel])
    return found


def by_position(sites: Sites, graph: ChannelGraph, index: int) -> Sites:
    """Fold channels to positions where an axis lists one group of a grouped convolution for all."""
    sizes = {layer(axis): axis.size for axis in graph.groups[index].reads}
    return {(name, channel % sizes.get(name, channel + 1)) for name, channel in sites}


def differences(model: nn.Module, graph: ChannelGraph, size: int) -> dict[tuple[str, int], tuple[Found, Found]]:
    """List the channels for which the poison and the graph do not agree: (poisoned, told)."""
    wrong = {}
    for (index, channel), found in poisoned(model, graph, size).items():
        found = found._replace(reads=by_position(found.reads, graph, index))
        expected = told(model, graph, index, channel)
        if found != expected:
            wrong[graph.groups[index].name, channel] = found, expected
    return wrong


@pytest.mark.parametrize("name", mostly_slow(NETWORKS, OFTEN))
def test_nan_arrives_where_the_graph_says_and_nowhere_else(name: str) -> None:
    build, size, least = NETWORKS[name]
    model = build().eval()
    graph = trace(model, torch.zeros(1, 3, size, size))
    assert len(graph.groups) >= least
    assert all(group.filters for group in graph.groups)
    assert sum(len(group.reads) for group in graph.groups) >= least
    assert differences(model, graph, size) == {}


def test_the_poison_finds_a_reader_or_a_norm_that_a_graph_displaces_or_forgets() -> None:
    model = slimcnn.build("resnet20").eval()
    graph = trace(model, torch.zeros(1, 3, 16, 16))
    group = graph.groups[0]
    moved = replace(group.reads[1], positions=group.reads[1].positions[::-1].copy())
    for wrong in (
        replace(group, reads=(group.reads[0], moved, *group.reads[2:])),
        replace(group, reads=group.reads[1:]),
        replace(group, norms=group.norms[1:]),
    ):
        found = differences(model, replace(graph, groups=(wrong, *graph.groups[1:])), 16)
        assert {name for name, _ in found} == {group.name}
        assert len(found) >= 2
