"""The channel graph as data: groups, locked channels, and costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from slimcnn.graph.activations import Timeline
from slimcnn.graph.sharing import Share
from slimcnn.notebook import html_table


def everything(answer: Any) -> Any:
    """Let all tensors of a network's answer count."""
    return answer


Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Axis:
    """The positions of one parameter axis that belong to a group's channels.

    For the input axis of a grouped convolution, `blocks` is its number of groups: position j is a different channel in
    each group. Positions are therefore numbered over all blocks, and `size` is blocks times the length of the axis.
    """

    parameter: str
    axis: int
    size: int
    positions: Positions = field(repr=False)
    """(channels, k): row c holds the k positions that belong to channel c."""
    blocks: int = 1


@dataclass(frozen=True)
class ChannelGroup:
    """Interchangeable channels: removing one removes the same number of positions from the same parameters.

    With one part, channels can be removed one by one; with several, one must be removed from each part.
    """

    name: str
    channels: int
    axes: tuple[Axis, ...]
    filters: tuple[Axis, ...]
    """The axes whose slices produce the channels: output axes of convolutions and linear layers."""
    norms: tuple[Axis, ...]
    """Batch-norm scales on these channels."""
    reads: tuple[Axis, ...] = ()
    """Input axes of the convolutions and linear layers that read the channels."""
    residual: bool = False
    """Several layers add into these channels: a residual stream."""
    least: int = 1
    """Minimum number of channels with which the network's code works (a `squeeze` would drop an axis of size 1)."""
    feeds: tuple[int, ...] = ()
    """Groups (by index) produced by the layers that read these channels; -1 for locked channels."""
    branch: bool = False
    """Inside a residual branch: all channels, and so the branch, may be removed (`Target(min_channels=0)`)."""
    inexact: str = ""
    """The norm over these channels, whose statistics change with pruning; empty if pruning is exact."""
    parts: tuple[Positions, ...] = ()
    """Channels in parts of equal size that must lose the same number of channels (the groups of a grouped convolution,
    the halves of a `chunk`); which ones is free. All other groups have a single part."""

    def __repr__(self) -> str:
        marks = [mark for mark in ("residual", "branch", "inexact") if getattr(self, mark)]
        parts = [f"{len(self.parts)} parts"] if len(self.parts) > 1 else []
        summary = ", ".join([f"{self.channels} channels", f"{len(self.layers)} layers", *parts, *marks])
        return f"ChannelGroup({self.name!r}: {summary})"

    @property
    def layers(self) -> tuple[str, ...]:
        """The modules that produce or pass on these channels, in network order; modules that read them are excluded."""
        reads = {(axis.parameter, axis.axis) for axis in self.reads}
        made = [layer_of(axis.parameter) for axis in self.axes if (axis.parameter, axis.axis) not in reads]
        return tuple(dict.fromkeys([*(layer_of(axis.parameter) for axis in self.filters), *made]))


def _kind(group: ChannelGroup) -> str:
    return "residual stream" if group.residual else "residual branch" if group.branch else ""


def layer_of(parameter: str) -> str:
    """Return the name of the module that owns a parameter; a parametrized weight belongs to its layer.

    >>> layer_of("stem.conv.weight"), layer_of("stem.conv.parametrizations.weight.original0")
    ('stem.conv', 'stem.conv')
    """
    module, _, parametrized = f".{parameter}".partition(".parametrizations.")
    return module[1:] if parametrized else parameter.rpartition(".")[0]


@dataclass(frozen=True)
class Contraction:
    """A convolution or matrix product: MACs for one image, and the axes that they are proportional to."""

    module: str
    macs: int
    shares: tuple[Share, ...]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the weights file: the shares of its axes, and the bytes per element."""

    shares: tuple[Share, ...]
    element_bytes: int


@dataclass(frozen=True)
class Locked:
    """Output channels of a layer that cannot be pruned, and why."""

    layer: str
    channels: int
    of: int
    reason: str
    where: str


@dataclass(frozen=True)
class SizeAttribute:
    """A module attribute that is a number of channels: the size of a channel pad, a `width`."""

    module: str
    name: str
    index: int | None
    """Index, if the attribute is a list or tuple."""
    channels: Positions
    """Rows (group, channel) of the channels that it counts; -1 for locked channels."""

    @property
    def key(self) -> tuple[str, str, int | None]:
        """Module, attribute and index."""
        return self.module, self.name, self.index


@dataclass(frozen=True)
class ChannelGraph:
    """The result of `trace`: channels that must be pruned together, locked channels, and costs.

    `example` is the input that the network was traced with; `batch` its first dimension. `fingerprint`
    identifies the structure: a plan for one graph is rejected on another.
    """

    groups: tuple[ChannelGroup, ...]
    locked: tuple[Locked, ...]
    contractions: tuple[Contraction, ...]
    parameters: Mapping[str, tuple[Share, ...]]
    """The shares of the axes of every parameter (buffers excluded)."""
    stored: tuple[StoredTensor, ...] = field(repr=False)
    """The contents of a weights file: parameters and buffers, shared ones once."""
    sizes: tuple[SizeAttribute, ...]
    """Module attributes that are channel counts and must be updated after pruning."""
    bundles: tuple[tuple[int, ...], ...]
    """Groups (by index) whose parts must all lose the same number of channels; most bundles hold one group."""
    fingerprint: str
    example: Any = field(repr=False, compare=False)
    timeline: Timeline = field(repr=False, compare=False)
    """Lifetimes and channels of the activations of the traced run."""
    batch: int = 1
    unproven: tuple[str, ...] = ()
    """What the trace could not check, such as other batch sizes."""
    other_example: Any = field(default=None, repr=False, compare=False)
    """The same at another image size, at which the network was traced too; None if that could teach nothing."""
    output: Callable[[Any], Any] = field(default=everything, repr=False, compare=False)
    """Picks the tensors that count from the network's answer."""
    selects: bool = field(default=False, repr=False, compare=False)
    """Whether the network is a detector: it answers with a list of dicts and selects by value (thresholds,
    non-maximum suppression). Its answer to a random input may be empty, so the outputs of its locked layers are
    compared too."""

    def __repr__(self) -> str:
        channels = sum(group.channels for group in self.groups)
        return (
            f"ChannelGraph({len(self.groups)} groups of {channels:,} channels, locked layers: {len(self.locked)}, "
            f"{self.macs():,} MACs, {self.params():,} parameters, fingerprint {self.fingerprint})"
        )

    def _repr_html_(self) -> str:
        """Show the groups as a table in a notebook."""
        rows = [(group.name, group.channels, len(group.layers), _kind(group)) for group in self.groups]
        return html_table(repr(self), ["group", "channels", "layers", "kind"], rows)

    def __getitem__(self, name: str) -> ChannelGroup:
        return self.groups[self.index(name)]

    def index(self, name: str) -> int:
        """Return the index of a group by its name."""
        return self._index[name]

    @cached_property
    def _index(self) -> dict[str, int]:
        return {group.name: i for i, group in enumerate(self.groups)}

    @cached_property
    def companions(self) -> tuple[tuple[int, ...], ...]:
        """The bundle of every group."""
        found = {i: bundle for bundle in self.bundles for i in bundle}
        return tuple(found[i] for i in range(len(self.groups)))

    @property
    def scattered(self) -> bool:
        """Whether layers scatter channels into streams (see `slimcnn.scatter`)."""
        return any(axis.parameter.endswith(".places") for group in self.groups for axis in group.axes)

    def macs(self, removed: Sequence[int] | npt.NDArray[np.int64] | None = None) -> int:
        """Count the MACs for one image when each group loses `removed[group]` channels."""
        if removed is None:
            return sum(c.macs for c in self.contractions)
        total = 0
        for c in self.contractions:
            left, whole = c.macs, 1
            for share in c.shares:
                left, whole = left * share.left(removed), whole * share.size
            total += left // whole
        return total

    def params(self, removed: Sequence[int] | npt.NDArray[np.int64] | None = None) -> int:
        """Count the parameters when each group loses `removed[group]` channels."""
        gone = self._nothing if removed is None else removed
        return sum(_size_left(shares, gone) for shares in self.parameters.values())

    def bytes(self, removed: Sequence[int] | npt.NDArray[np.int64] | None = None) -> int:
        """Count the bytes of a weights file's tensors when each group loses `removed[group]` channels.

        Like `measure(...).bytes`: parameters and buffers, without the file's header.
        """
        gone = self._nothing if removed is None else removed
        return sum(tensor.element_bytes * _size_left(tensor.shares, gone) for tensor in self.stored)

    def peak_memory(self, removed: Sequence[int] | npt.NDArray[np.int64] | None = None, float_bytes: int = 4) -> int:
        """Compute the peak bytes of live activations when each group loses `removed[group]` channels.

        Like `measure(...).peak_memory`: one image, operation by operation as traced; `float_bytes=1` for int8.
        """
        return int(self.timeline.at(self._nothing if removed is None else removed, float_bytes).max())

    @property
    def _nothing(self) -> npt.NDArray[np.int64]:
        return np.zeros(len(self.groups), dtype=np.int64)


def _size_left(shares: Sequence[Share], removed: Sequence[int] | npt.NDArray[np.int64]) -> int:
    return math.prod(share.left(removed) for share in shares)
