"""The tracer: watches every operation of one run at the dispatcher and keeps the channel ids up to date."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from slimcnn.graph.hollow import SKIPPED, SKIPPED_IF_HOLLOW, needs_numbers, stand_in
from slimcnn.graph.ids import NONE, Label, compact, core, distinct, ids_in, same, varying
from slimcnn.graph.ledger import Call, EqualParts, Ledger, LockRecord, Mark, Meeting, NeedsValues, Site
from slimcnn.graph.sizes_asked import SizesAsked
from slimcnn.measuring.lifetimes import Lifetime, Lifetimes

SKIPPED_FOLDERS = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep, "<")
"""Code that is not the user's."""

WATCHING = os.path.join(os.path.dirname(__file__), "execution.py")
"""Who calls the network: whatever called this is not the network's code."""

PARTING = {"split", "split_with_sizes", "chunk", "slice", "view"}
"""Operations that cut channels up by numbers."""

Rules = Callable[["Tracer", Call], list[Label] | None]


class Tracer(TorchDispatchMode):
    """Run the network's own operations on channel ids (rules/ has the few that need a rule).

    `rules` gives the labels of an operation's outputs; `names` are the qualified names of the modules; fresh ids
    start at `next_id`.  A `hollow` run does not compute what nobody needs (see `hollow.py`); a `training` run is one
    of a network in training mode; an `inexact` one lets channels go that are normalised together.
    """

    def __init__(
        self, rules: Rules, names: Mapping[nn.Module, str], next_id: int, hollow: bool, training: bool, inexact: bool
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rules = rules
        self.ledger = Ledger()
        self.hollow = hollow
        self.training = training
        self.inexact = inexact
        self.next_id = next_id
        self.used: set[int] = set()
        self.unread: set[str] = set()
        """Parameters and buffers that nothing has read, known after the run."""
        """`id` of every tensor that was read, and thus of every weight."""
        self.outputs: list[Tensor] = []
        """What the network returned."""
        self.lifetimes = Lifetimes(weights=(), inputs=())
        self._held: dict[Lifetime, Label] = {}
        """Whose channels the memory of an activation holds."""
        self._marks: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._here: dict[int, Mark | None] = {}
        """The marks of the arguments of the operation that is running, by `id`: quicker than the table of all."""
        self._names = names
        self._stack: list[nn.Module] = []
        self._sizes = SizesAsked(self.ledger)

    # what rules may ask and say ------------------------------------------------------------------------------

    def label(self, tensor: Tensor | None) -> Label:
        """Read a tensor's label; empty for a tensor without channels."""
        mark = self.mark(tensor) if tensor is not None else None
        return mark.label if mark else ()

    def mark(self, tensor: Tensor) -> Mark | None:
        """Read all that is known of a tensor; None for a constant made on the way."""
        number = id(tensor)
        found: Mark | None = self._here[number] if number in self._here else self._marks.get(tensor)
        return found

    def fixed(self, tensor: Tensor) -> bool:
        """Ask whether a tensor is independent of the network's input."""
        mark = self.mark(tensor)
        return mark is None or mark.fixed

    def known(self, tensor: Tensor) -> bool:
        """Ask whether a tensor is fixed and its numbers were computed."""
        mark = self.mark(tensor)
        return mark is None or (mark.fixed and not mark.hollow)

    def computed(self, tensor: Tensor) -> bool:
        """Ask whether a tensor's numbers were computed."""
        mark = self.mark(tensor)
        return mark is None or not mark.hollow

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
        if torch.equal(a, b):
            return
        known = np.minimum(a.numpy(), b.numpy()) != NONE
        if not known.all():
            self.lock(torch.maximum(a, b)[~known], "joined with a tensor whose channels must stay", call)
            a, b = a[known], b[known]
        if len(a):
            self.ledger.equal.append((a, b, call.site))

    def tie(self, a: Tensor, b: Tensor, call: Call) -> None:
        """Unify two compact facets of one shape, looking only along dimensions in which one of them changes."""
        both = varying(a) | varying(b)
        self.unify(core(a, both), core(b, both), call)

    def part(self, rows: Tensor, call: Call) -> None:
        """Say that every row of ids (parts, n) must keep the same number of channels."""
        if len(rows) < 2:
            return
        if bool((rows == NONE).any()):
            self.unify(rows[:1].expand(len(rows) - 1, -1), rows[1:], call)
        else:
            self.ledger.parts.append(EqualParts(rows, call.site))

    def lock(self, ids: Tensor, reason: str, call: Call | None) -> None:
        """Say that ids must stay."""
        ids = distinct(ids)
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

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare every call what PyTorch puts around it to keep the compiler away: nothing is compiled here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = tensors_in((*args, *kwargs.values()))
        self._here = {id(tensor): self._marks.get(tensor) for tensor in tensors}
        marks = [mark for mark in map(self.mark, tensors) if mark is not None]
        if not marks:
            out = func(*args, **kwargs)
            self.lifetimes.note(tensors, tensors_in(out if isinstance(out, tuple | list) else (out,)))
            return out
        name = func._schema.name.removeprefix("aten::")
        hollow = any(mark.hollow for mark in marks)
        if hollow and needs_numbers(name, args, [t for t in tensors if not self.computed(t)]):
            raise NeedsValues(name)
        site = self._begin(name, marks)
        if any(mark.label for mark in marks):
            self._sizes.note(name, func, (*args, *kwargs.values()), self.module, constants=len(marks) < len(tensors))
        self.used.update(map(id, tensors))
        skip = self.hollow and (name in SKIPPED or (hollow and name in SKIPPED_IF_HOLLOW))
        out = stand_in(name, func, args, kwargs) if skip else func(*args, **kwargs)
        self.ledger.finished = True
        outputs = tensors_in(out if isinstance(out, tuple | list) else (out,))
        self.lifetimes.note(tensors, outputs)
        call = Call(func, _bind(func, args, kwargs), tensors, outputs, site)
        self._note_alone(call, marks)
        labels = self._rules(self, call)
        if torch.Tag.pointwise in func.tags:
            self._note_numbers(call)
        if labels is not None:
            if name in PARTING:
                self.ledger.parted.append((site, labels))
            fixed = all(map(self.fixed, tensors))
            self._here = {}
            for tensor, label in zip(outputs, labels, strict=True):
                self._assign(tensor, Mark(label, hollow or skip, fixed), call)
        return out

    def _begin(self, name: str, marks: list[Mark]) -> Site:
        site, ledger = Site(name, self.module_name, *_user_frame()), self.ledger
        ledger.current, ledger.finished = site, False
        ledger.current_labels = [mark.label for mark in marks if mark.label and not mark.fixed]
        ledger.current_weights = [mark.label for mark in marks if mark.label and mark.fixed]
        ledger.passed += [(site, label) for label in ledger.current_labels]
        return site

    def _note_numbers(self, call: Call) -> None:
        made = [t.item() for t in call.tensors if t.numel() == 1 and self.mark(t) is None]
        given = [value for value in call.arguments.values() if isinstance(value, int | float)]
        if made or given:
            self.ledger.numbers.append((call.site, [*given, *made], self.ledger.current_labels))

    def _note_alone(self, call: Call, marks: list[Mark]) -> None:
        single = [core(facet).reshape(-1) for mark in marks for facet in mark.label if not varying(facet)]
        for ids in single:
            if len(ids) and int(ids[0]) != NONE:
                self.ledger.alone[int(ids[0])].append(self._said(call))
                self.ledger.delicate = True

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
        if base is None or written_in_place:
            whole = tensor if base is None else base
            life = self.lifetimes.of(whole)
            if whole.numel() == life.elements:  # a piece of `chunk` does not say what it is a view of
                self._held[life] = self.label(whole)

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

    def activations(self) -> list[tuple[Lifetime, Label]]:
        """List what lived in memory during the run, and whose channels it held."""
        return [(life, self._held.get(life, ())) for life in self.lifetimes.activations(self.outputs)]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow the modules and the operations of everything that runs inside."""
        enter = register_module_forward_pre_hook(lambda module, _: self._stack.append(module))
        leave = register_module_forward_hook(self._leave, always_call=True)
        # PyTorch's fused attention for inference would hide what happens inside.
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.no_grad(), self._sizes, self:
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            enter.remove()
            leave.remove()


def _same(a: Mark, b: Mark | None) -> bool:
    return b is not None and (a.hollow, a.fixed) == (b.hollow, b.fixed) and same(a.label, b.label)


def tensors_in(arguments: Iterable[Any]) -> list[Tensor]:
    """List the tensors among an operation's arguments or results: they, or lists of them."""
    found: list[Tensor] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            found.append(argument)
        elif isinstance(argument, list | tuple):
            found += [t for t in argument if isinstance(t, Tensor)]
    return found


@cache
def _signature(func: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((argument.name, argument.default_value) for argument in func._schema.arguments)


def _bind(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    signature = _signature(func)
    bound = {name: kwargs.get(name, default) for name, default in signature[len(args) :]}
    return {name: value for (name, _), value in zip(signature, args, strict=False)} | bound


def _user_frame() -> tuple[str, int, str]:
    frame = sys._getframe(2)
    while frame.f_code.co_filename.startswith(SKIPPED_FOLDERS):
        if frame.f_code.co_filename == WATCHING or frame.f_back is None:
            return ("", 0, "")
        frame = frame.f_back
    return (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname)
