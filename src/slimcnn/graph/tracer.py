"""The tracer: watches every operation of one run at the dispatcher and keeps the channel ids up to date."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from slimcnn.graph.ids import NONE, Label, compact, core, ids_in, same, varying

HOLLOW_OPS = {"convolution", "mm", "addmm", "bmm", "baddbmm", "native_batch_norm"}
"""Operations whose numbers nobody needs while tracing: their outputs are zeros of the right shape."""

VALUE_OPS = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "_unique2", "unique_dim"}
"""Operations through which numbers steer the program."""

SKIPPED_FOLDERS = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep, "<")
"""Code that is not the user's."""


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
        place = f"{os.path.basename(self.file)}:{self.line}" if self.file else "unknown place"
        return f"{self.op} in {self.module or 'the network itself'} ({place})"

    @property
    def code(self) -> tuple[str, int]:
        """The same line of code, in whichever module it ran."""
        return (self.file, self.line)


@dataclass(frozen=True)
class Call:
    """One operation with its arguments by name."""

    func: Any
    arguments: dict[str, Any]
    out: Any
    site: Site

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor among the arguments."""
        return [t for t in tree_leaves(list(self.arguments.values())) if isinstance(t, Tensor)]


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


@dataclass
class Ledger:
    """Everything that one run taught: what is equal, what must stay, what costs."""

    equal: list[tuple[Tensor, Tensor, Site]] = field(default_factory=list)
    locks: list[LockRecord] = field(default_factory=list)
    contractions: list[ContractionRecord] = field(default_factory=list)
    pads: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    """(module, ids of the zeros in front, ids of the zeros behind) of every ChannelPad."""
    norms: list[Tensor] = field(default_factory=list)
    """Ids of batch-norm scales, one tensor per call."""
    squeezed: list[Label] = field(default_factory=list)
    """Channels on an axis that a `squeeze` would swallow if only one were left."""
    moves: list[tuple[Site, Label]] = field(default_factory=list)
    """What passed an operation whose sizes may be written into the code (view, split, slice ...)."""
    lines: dict[tuple[str, int], list[Label]] = field(default_factory=lambda: defaultdict(list))
    """Activations that passed a line of code."""
    met: list[Meeting] = field(default_factory=list)
    """Everything that met or was picked, position by position: a trial cut must see the same, less what is cut."""
    alone: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    """For ids of which a tensor holds one alone (`x[:, i]`): everything that was done to it."""
    delicate: bool = False
    """Channels were picked or parted by numbers, which may be computed from how many there are."""
    current: Site | None = None
    """The last operation that began: the culprit when the run breaks off inside it."""
    finished: bool = True
    """The last operation also came to its end."""
    current_labels: list[Label] = field(default_factory=list)
    """Activations that went into it."""
    current_weights: list[Label] = field(default_factory=list)
    """Weights that went into it."""


class Tracer(TorchDispatchMode):
    """Run the network's own operations on channel ids (rules/ has the few that need a rule).

    `names` are the qualified names of the modules; fresh ids start at `next_id`.  A `hollow` run does not compute
    convolutions and matrix products; a `training` run is one of a network in training mode.
    """

    def __init__(
        self, names: Mapping[nn.Module, str], next_id: int, hollow: bool = True, training: bool = False
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger = Ledger()
        self.hollow = hollow
        self.training = training
        self.next_id = next_id
        self.used: set[int] = set()
        """`id` of every tensor that was read, and thus of every weight."""
        self.outputs: list[Tensor] = []
        """What the network returned."""
        self._marks: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._names = names
        self._stack: list[nn.Module] = []

    # what rules may ask and say ------------------------------------------------------------------------------

    def label(self, tensor: Tensor | None) -> Label:
        """Read a tensor's label; empty for a tensor without channels."""
        mark = self._marks.get(tensor) if tensor is not None else None
        return mark.label if mark else ()

    def mark(self, tensor: Tensor) -> Mark | None:
        """Read all that is known of a tensor; None for a constant made on the way."""
        found: Mark | None = self._marks.get(tensor)
        return found

    def fixed(self, tensor: Tensor) -> bool:
        """Ask whether a tensor is independent of the network's input."""
        mark = self._marks.get(tensor)
        return mark is None or mark.fixed

    def known(self, tensor: Tensor) -> bool:
        """Ask whether a tensor is fixed and its numbers were computed."""
        mark = self._marks.get(tensor)
        return mark is None or (mark.fixed and not mark.hollow)

    def set_mark(self, tensor: Tensor, mark: Mark) -> None:
        """Write what is known of a tensor."""
        self._marks[tensor] = mark

    def fresh(self, n: int) -> Tensor:
        """Make ids that no parameter has yet."""
        ids = torch.arange(self.next_id, self.next_id + n)
        self.next_id += n
        return ids

    def unify(self, a: Tensor, b: Tensor, call: Call) -> None:
        """Say that ids at equal positions are the same channel; -1 on one side locks the other."""
        a, b = a.reshape(-1), b.reshape(-1)
        if len(a) > 1:
            self.ledger.met.append(Meeting(a, b, call.site))
        lost = torch.cat([b[(a == NONE)], a[(b == NONE)]])
        if bool((lost >= 0).any()):
            self.lock(lost, "joined with a tensor whose channels must stay", call)
        differ = (a != b) & (a != NONE) & (b != NONE)
        if bool(differ.any()):
            self.ledger.equal.append((a[differ], b[differ], call.site))

    def tie(self, a: Tensor, b: Tensor, call: Call) -> None:
        """Unify two compact facets of one shape, looking only along dimensions in which one of them changes."""
        both = varying(a) | varying(b)
        self.unify(core(a, both), core(b, both), call)

    def lock(self, ids: Tensor, reason: str, call: Call | None) -> None:
        """Say that ids must stay."""
        ids = torch.unique(ids[ids >= 0])
        if len(ids):
            self.ledger.locks.append(LockRecord(ids, reason, call.site if call else None))

    def lock_label(self, label: Label, reason: str, call: Call | None) -> None:
        """Lock every id of a label."""
        if label:
            self.lock(ids_in(label), reason, call)

    @property
    def module(self) -> nn.Module | None:
        """The module that is running."""
        return self._stack[-1] if self._stack else None

    @property
    def module_name(self) -> str:
        """The qualified name of the module that is running."""
        return self._names.get(self._stack[-1], "") if self._stack else ""

    # the watching itself -------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from slimcnn.graph.rules import apply_rule

        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        marks = [mark for mark in map(self._marks.get, tensors) if mark is not None]
        if not marks:
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        hollow = any(mark.hollow for mark in marks)
        if hollow and (name in VALUE_OPS or (name == "index" and _has_boolean_index(args))):
            raise NeedsValues(name)
        site = Site(name, self.module_name, *_user_frame())
        self.ledger.current, self.ledger.finished = site, False
        self.ledger.current_labels = [mark.label for mark in marks if mark.label and not mark.fixed]
        self.ledger.lines[site.code] += self.ledger.current_labels
        self.ledger.current_weights = [mark.label for mark in marks if mark.label and mark.fixed]
        self.used.update(map(id, tensors))
        skip = self.hollow and name in HOLLOW_OPS
        out = _zeros_instead(func, args, kwargs) if skip else func(*args, **kwargs)
        self.ledger.finished = True
        call = Call(func, _bind(func, args, kwargs), out, site)
        self._note_alone(call, marks)
        labels = apply_rule(self, call)
        if labels is not None:
            fixed = all(map(self.fixed, tensors))
            for tensor, label in zip(_outputs(out), labels, strict=True):
                self._assign(tensor, Mark(label, hollow or skip, fixed), call)
        return out

    def _note_alone(self, call: Call, marks: list[Mark]) -> None:
        single = [core(facet).reshape(-1) for mark in marks for facet in mark.label if not varying(facet)]
        for ids in single:
            if len(ids) and int(ids[0]) != NONE:
                self.ledger.alone[int(ids[0])].append(self._said(call))

    def _said(self, call: Call) -> str:
        """Write an operation down with its numbers: what is done to a channel may depend on where it is."""
        constants = (t for t in call.tensors if self.mark(t) is None)
        numbers = [leaf for leaf in tree_leaves(list(call.arguments.values())) if not isinstance(leaf, Tensor)]
        return repr((call.site.op, numbers, [t.tolist() for t in constants]))

    def _leave(self, *_: object) -> None:
        self._stack.pop()

    def _assign(self, tensor: Tensor, mark: Mark, call: Call) -> None:
        written_in_place = any(tensor is t for t in call.tensors)
        base = tensor._base
        if written_in_place and base is not None and not _same(mark, self._marks.get(tensor)):
            self._write_through(base, tensor, mark, call)
        self._marks[tensor] = mark

    def _write_through(self, base: Tensor, view: Tensor, mark: Mark, call: Call) -> None:
        """Carry ids that were written into a view over to the tensor that it is a view of."""
        old = self.label(base)
        if len(old) > 1 or len(mark.label) > 1 or not base.is_contiguous():
            self.lock_label((*old, *mark.label), "written into part of a tensor that cannot be followed", call)
            return
        whole = old[0].clone(memory_format=torch.contiguous_format) if old else torch.full(base.shape, NONE)
        part = whole.as_strided(view.shape, view.stride(), view.storage_offset() - base.storage_offset())
        part.copy_(mark.label[0] if mark.label else torch.tensor(NONE))
        before = self._marks.get(base)
        fixed = mark.fixed and (before is None or before.fixed)
        hollow = mark.hollow or (before is not None and before.hollow)
        self._marks[base] = Mark((compact(whole),), hollow, fixed)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow the modules and the operations of everything that runs inside."""
        enter = register_module_forward_pre_hook(lambda module, _: self._stack.append(module))
        leave = register_module_forward_hook(self._leave, always_call=True)
        # PyTorch's fused attention for inference would hide what happens inside.
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.no_grad(), self:
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            enter.remove()
            leave.remove()


def _same(a: Mark, b: Mark | None) -> bool:
    return b is not None and (a.hollow, a.fixed) == (b.hollow, b.fixed) and same(a.label, b.label)


def _outputs(out: Any) -> list[Tensor]:
    return [t for t in tree_leaves(out) if isinstance(t, Tensor)]


def _bind(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    given = dict(zip((p.name for p in func._schema.arguments), args, strict=False)) | kwargs
    return {p.name: given.get(p.name, p.default_value) for p in func._schema.arguments}


def _has_boolean_index(args: tuple[Any, ...]) -> bool:
    return any(isinstance(t, Tensor) and t.dtype == torch.bool for t in args[1])


def _zeros_instead(func: Any, args: Any, kwargs: Any) -> Any:
    """Give zeros of the shapes that an operation would return; fail where it would fail."""
    if "batch_norm" in func._schema.name:
        return _zeros_instead_of_batch_norm(*args, **kwargs)
    shapes = func(*tree_map_only(Tensor, lambda t: t.to("meta"), args), **kwargs)
    return tree_map_only(Tensor, lambda t: torch.zeros_like(t, device="cpu"), shapes)


def _zeros_instead_of_batch_norm(x: Tensor, *parameters: Any, **_: Any) -> tuple[Tensor, Tensor, Tensor]:
    # Faster than PyTorch's own computation of the shapes, which also does not look at the parameters.
    for tensor in parameters[:4]:
        if tensor is not None and tensor.numel() != x.size(1):
            raise RuntimeError(f"a batch norm for {tensor.numel()} channels got {x.size(1)}")
    return torch.zeros_like(x), x.new_empty(0), x.new_empty(0)


def _user_frame() -> tuple[str, int, str]:
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(SKIPPED_FOLDERS):
        frame = frame.f_back  # type: ignore[assignment]
    return (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname) if frame is not None else ("", 0, "")


def as_pairs(ledger: Ledger) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Stack every equality of a ledger as rows (a, b)."""
    if not ledger.equal:
        return np.empty((0, 2), dtype=np.int64)
    a = torch.cat([pair[0] for pair in ledger.equal])
    b = torch.cat([pair[1] for pair in ledger.equal])
    return torch.stack([a, b], dim=1).numpy()
