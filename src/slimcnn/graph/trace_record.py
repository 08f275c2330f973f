"""Everything the tracer records in one run."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimcnn.graph.ids import Label
from slimcnn.measuring.lifetimes import Lifetime


class NeedsValues(Exception):
    """The network's control flow depends on values that a shape-only run does not compute."""


@dataclass(frozen=True)
class Site:
    """The place in the user's code where an operation was called."""

    op: str
    module: str
    file: str
    line: int
    function: str = ""

    def __str__(self) -> str:
        place = f" ({os.path.basename(self.file)}:{self.line})" if self.file else ""
        return f"{self.op} in {self.module or 'the network itself'}{place}"

    @property
    def code(self) -> tuple[str, int]:
        """The line of code, without the module in which it ran."""
        return (self.file, self.line)


@dataclass(frozen=True)
class Call:
    """One call of an operation, with its arguments by name."""

    func: Any
    arguments: dict[str, Any]
    tensors: list[Tensor]
    """Every tensor among the arguments."""
    outputs: list[Tensor]
    """Every tensor among the results."""
    site: Site

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def out(self) -> Tensor:
        """The first result."""
        return self.outputs[0]


@dataclass(frozen=True)
class Mark:
    """The tracer's information about a tensor."""

    label: Label
    computed: bool = True
    """Its values were computed; False for a tensor that a shape-only run only allocated."""
    fixed: bool = False
    """It does not depend on the network's input: a parameter, or computed from parameters alone."""


@dataclass(frozen=True)
class ContractionRecord:
    """A convolution or matrix product: its MACs, and the axes that they are proportional to."""

    module: str
    macs: int
    shares: tuple[Tensor, ...]
    produced: Tensor | None
    """Ids of the channels that it produces; None for a depthwise convolution, which passes channels on."""
    read: Tensor | None = None
    """Ids of the weight's axis that reads channels."""
    lost: int = 0
    """Number of channels that it produces with a weight whose ids are unknown."""
    per_batch: bool = True
    """MACs are proportional to the batch size; False for a product of weights."""
    training: bool = False
    """It only runs in training mode: channels that are produced only here are not pruned."""


@dataclass(frozen=True)
class LockRecord:
    """Ids that must not be removed, and why."""

    ids: Tensor
    reason: str
    site: Site | None


@dataclass(frozen=True)
class EqualParts:
    """Rows of ids (parts, n) that must keep the same number of channels, or the code would split them elsewhere."""

    rows: Tensor
    site: Site


@dataclass(frozen=True)
class Meeting:
    """Ids at equal positions of two tensors that an operation combined; without `b`, ids that it selected."""

    a: Tensor
    b: Tensor | None


@dataclass
class OperationRun:
    """The record of one operation on tensors of the network, filled in while it runs."""

    site: Site
    activations: list[Label]
    """Labels of the inputs that depend on the network's input."""
    weights: list[Label]
    """Labels of all other inputs."""
    finished: bool = False
    numbers: list[float] = field(default_factory=list)
    """Numbers by which a pointwise operation scaled or shifted channels: they must not depend on the channel count."""
    pieces: list[Label] = field(default_factory=list)
    """Labels of the outputs of an operation that splits channels into parts."""
    meetings: list[Meeting] = field(default_factory=list)
    """A trial cut must find the same meetings, except for removed channels."""
    alone: list[tuple[int, str]] = field(default_factory=list)
    """Ids that are the only channel of an input (`x[:, i]`), with a description of the operation."""


@dataclass
class TraceRecord:
    """Everything the tracer records in one run: all operations in order, and the resulting constraints."""

    runs: list[OperationRun] = field(default_factory=list)
    """If the network fails, it fails in the last operation or after it."""
    equal: list[tuple[Tensor, Tensor, Site]] = field(default_factory=list)
    """Ids that are the same channel."""
    locks: list[LockRecord] = field(default_factory=list)
    parts: list[EqualParts] = field(default_factory=list)
    contractions: list[ContractionRecord] = field(default_factory=list)
    pieces: list[Tensor] = field(default_factory=list)
    """Ids of pieces of any size: none may become empty."""
    inexact: list[LockRecord] = field(default_factory=list)
    """Channels that are normalized together: removing some changes the statistics of the others."""
    pads: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    """(module, ids of the zeros in front, ids of the zeros behind) of every ChannelPad."""
    norms: list[Tensor] = field(default_factory=list)
    """Ids of batch-norm scales, one tensor per call."""
    squeezed: list[Label] = field(default_factory=list)
    """Channels on an axis that a `squeeze` would drop if only one were left."""
    delicate: bool = False
    """Channels were selected or split by numbers, which may be computed from the channel count."""
    reshapes_images: bool = False
    """Views change the two last axes of tensors with channels: positions may depend on the size of the image."""
    size_blind: bool = True
    """The network's code does not depend on the channel count: it runs on a pruned copy as on the original."""
    memory: list[tuple[Lifetime, Label]] = field(default_factory=list)
    """Lifetimes and labels of the activations in memory."""

    @property
    def last(self) -> OperationRun | None:
        """The last operation, which may have failed."""
        return self.runs[-1] if self.runs else None

    def with_run(self, other: TraceRecord) -> TraceRecord:
        """Add what another run of the same network taught: in training mode, or at another image size.

        MACs, batch-norm scales and memory describe the first run only. A layer that ran in the other one only costs
        nothing, and its channels stay.
        """
        known = {contraction.module for contraction in self.contractions}
        more = [replace(one, macs=0, training=True) for one in other.contractions if one.module not in known]
        return TraceRecord(
            runs=self.runs + other.runs,
            equal=self.equal + other.equal,
            locks=self.locks + other.locks,
            parts=self.parts + other.parts,
            contractions=self.contractions + more,
            pieces=self.pieces + other.pieces,
            inexact=self.inexact + other.inexact,
            pads=self.pads + other.pads,
            norms=self.norms,
            squeezed=self.squeezed + other.squeezed,
            delicate=self.delicate or other.delicate,
            reshapes_images=self.reshapes_images or other.reshapes_images,
            size_blind=self.size_blind and other.size_blind,
            memory=self.memory,
        )

    def pairs(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return all equalities as rows (a, b)."""
        if not self.equal:
            return np.empty((0, 2), dtype=np.int64)
        a = torch.cat([pair[0] for pair in self.equal])
        b = torch.cat([pair[1] for pair in self.equal])
        return torch.stack([a, b], dim=1).numpy()
