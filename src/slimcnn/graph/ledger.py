"""What is written down while a network runs under the tracer."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimcnn.graph.ids import Label
from slimcnn.measuring.lifetimes import Lifetime


class NeedsValues(Exception):
    """The network's control flow depends on numbers that the hollow run did not compute."""


@dataclass(frozen=True)
class Site:
    """Where in the user's code an operation was called."""

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
        """The same line of code, in whichever module it ran."""
        return (self.file, self.line)


@dataclass(frozen=True)
class Call:
    """One operation with its arguments by name."""

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
    """What the tracer knows of a tensor."""

    label: Label
    hollow: bool = False
    """Its numbers were not computed."""
    fixed: bool = False
    """It does not depend on the network's input: a parameter, or computed from parameters alone."""


@dataclass(frozen=True)
class ContractionRecord:
    """A convolution or matrix product: what it costs, and the axes whose ids share the cost."""

    module: str
    macs: int
    shares: tuple[Tensor, ...]
    produced: Tensor | None
    """Ids of the channels that are made here; None for a depthwise convolution, which passes channels on."""
    read: Tensor | None = None
    """Ids of the weight's axis that reads channels."""
    lost: int = 0
    """Number of channels that are made here by a weight whose ids could not be followed."""
    per_batch: bool = True
    """Every sample costs the same again; false for a product of weights."""
    training: bool = False
    """It only runs in training mode: what is made here and nowhere else stays as it is."""


@dataclass(frozen=True)
class LockRecord:
    """Ids that must stay, and why."""

    ids: Tensor
    reason: str
    site: Site | None


@dataclass(frozen=True)
class Meeting:
    """Ids that met at equal positions of two tensors; or, without `b`, that were picked out of one."""

    a: Tensor
    b: Tensor | None
    site: Site


@dataclass(frozen=True)
class EqualParts:
    """Rows of ids, (parts, n): every row must keep the same number of channels, or the code parts them elsewhere."""

    rows: Tensor
    site: Site


FactorRecord = tuple[Site, list[float], list[Label]]
"""An operation, the numbers that it was given, and the activations that went into it."""


@dataclass
class Ledger:
    """Everything that one run taught: what is equal, what must stay, what costs."""

    equal: list[tuple[Tensor, Tensor, Site]] = field(default_factory=list)
    locks: list[LockRecord] = field(default_factory=list)
    parts: list[EqualParts] = field(default_factory=list)
    contractions: list[ContractionRecord] = field(default_factory=list)
    pieces: list[Tensor] = field(default_factory=list)
    """Ids of pieces of any size: none may become empty."""
    inexact: list[LockRecord] = field(default_factory=list)
    """Channels that are normalised together: without some of them the statistics of the others change."""
    pads: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    """(module, ids of the zeros in front, ids of the zeros behind) of every ChannelPad."""
    norms: list[Tensor] = field(default_factory=list)
    """Ids of batch-norm scales, one tensor per call."""
    squeezed: list[Label] = field(default_factory=list)
    """Channels on an axis that a `squeeze` would swallow if only one were left."""
    moves: list[tuple[Site, Label]] = field(default_factory=list)
    """What passed an operation whose sizes may be written into the code (view, split, slice ...)."""
    passed: list[tuple[Site, Label]] = field(default_factory=list)
    """Every activation that went into an operation."""
    parted: list[tuple[Site, list[Label]]] = field(default_factory=list)
    """What came out of an operation that cuts channels up."""
    numbers: list[FactorRecord] = field(default_factory=list)
    """Numbers by which channels were scaled or shifted: they must not depend on how many channels there are."""
    met: list[Meeting] = field(default_factory=list)
    """Everything that met or was picked, position by position: a trial cut must see the same, less what is cut."""
    alone: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    """For ids of which a tensor holds one alone (`x[:, i]`): everything that was done to it."""
    delicate: bool = False
    """Channels were picked or parted by numbers, which may be computed from how many there are."""
    cut_blind: bool = True
    """Nothing in the network's code depends on how many channels there are, so that it cannot tell a cut copy."""
    activations: list[tuple[Lifetime, Label]] = field(default_factory=list)
    """What lives in memory while the network runs, and whose channels it holds."""
    current: Site | None = None
    """The last operation that began: the culprit when the run breaks off inside it."""
    finished: bool = True
    """The last operation also came to its end."""
    current_labels: list[Label] = field(default_factory=list)
    """Activations that went into it."""
    current_weights: list[Label] = field(default_factory=list)
    """Weights that went into it."""


def as_pairs(ledger: Ledger) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Stack every equality of a ledger as rows (a, b)."""
    if not ledger.equal:
        return np.empty((0, 2), dtype=np.int64)
    a = torch.cat([pair[0] for pair in ledger.equal])
    b = torch.cat([pair[1] for pair in ledger.equal])
    return torch.stack([a, b], dim=1).numpy()
