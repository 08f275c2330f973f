"""The tracer: follow channel ids through every operation of one run, at PyTorch's dispatcher."""

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

from slimcnn.graph.fast.shape_only import stand_in, values_of
from slimcnn.graph.fast.size_queries import SizeQueries
from slimcnn.graph.ids import NONE, Label, compact, core, distinct, ids_in, same, varies, varying
from slimcnn.graph.operations import Operation, Rule, name_of, operation
from slimcnn.graph.trace_record import (
    Call,
    EqualParts,
    LockRecord,
    Mark,
    Meeting,
    NeedsValues,
    OperationRun,
    Site,
    TraceRecord,
)
from slimcnn.measuring import examples
from slimcnn.measuring.lifetimes import Lifetime, Lifetimes

SKIPPED_FOLDERS = (
    os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep, examples.__file__, "<"
)  # fmt: skip
"""Folders whose code is not the user's."""

WATCHING = os.path.join(os.path.dirname(__file__), "execution.py")
"""The file that calls the network: frames above it are not the network's code."""


class Tracer(TorchDispatchMode):
    """Run the network's operations on channel ids; `rules/` defines the effect of each.

    Args:
        rules: returns the labels of an operation's outputs.
        names: the qualified names of the modules.
        next_id: the first id that is free.
        shape_only: skip computations whose values are not used (see `fast/shape_only.py`).
        training: the network is in training mode.
        inexact: allow pruning across norms over channels.
    """

    def __init__(
        self, rules: Rule, names: Mapping[nn.Module, str], next_id: int, shape_only: bool, training: bool, inexact: bool
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rules = rules
        self.record = TraceRecord()
        self.shape_only = shape_only
        self.training = training
        self.inexact = inexact
        self.next_id = next_id
        self.used: set[int] = set()
        """`id` of every tensor that was read, weights included."""
        self.unread: set[str] = set()
        """Parameters and buffers that were not read; set after the run."""
        self.outputs: list[Tensor] = []
        """The network's output tensors; those that count."""
        self.answers: int | None = None
        """Length of the network's answer, if it is a list of dicts: one for each image."""
        self.pixel: Callable[[], Tensor | None] = lambda: None
        """The last tensor that was averaged over all pixels: 1 x 1 at any image size."""
        self.lifetimes = Lifetimes(weights=(), inputs=())
        self._held: dict[Lifetime, Label] = {}
        """The label of every activation in memory."""
        self._marks: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._here: dict[int, Mark | None] = {}
        """Marks of the running operation's arguments, by `id`: faster than the table of all marks."""
        self._names = names
        self._stack: list[nn.Module] = []
        self._sizes: SizeQueries | None = None
        """Set during the run only: it refers to the tracer, and a cycle would keep the run's tensors in memory."""

    # --- interface for rules ---------------------------------------------------------------------------------

    def label(self, tensor: Tensor | None) -> Label:
        """Return a tensor's label; empty for a tensor without channels."""
        mark = self.mark(tensor) if tensor is not None else None
        return mark.label if mark else ()

    def mark(self, tensor: Tensor) -> Mark | None:
        """Return a tensor's mark; None for a constant created during the run."""
        number = id(tensor)
        found: Mark | None = self._here[number] if number in self._here else self._marks.get(tensor)
        return found

    def fixed(self, tensor: Tensor) -> bool:
        """Return whether a tensor is independent of the network's input."""
        mark = self.mark(tensor)
        return mark is None or mark.fixed

    def known(self, tensor: Tensor) -> bool:
        """Return whether a tensor is fixed and its values were computed."""
        mark = self.mark(tensor)
        return mark is None or (mark.fixed and mark.computed)

    def computed(self, tensor: Tensor) -> bool:
        """Return whether a tensor's values were computed."""
        mark = self.mark(tensor)
        return mark is None or mark.computed

    def set_mark(self, tensor: Tensor, mark: Mark) -> None:
        """Set a tensor's mark."""
        self._marks[tensor] = mark

    def fresh(self, n: int) -> Tensor:
        """Return `n` new ids."""
        ids = torch.arange(self.next_id, self.next_id + n)
        self.next_id += n
        return ids

    def unify(self, a: Tensor, b: Tensor, call: Call) -> None:
        """Record that ids at equal positions are the same channel; -1 on one side locks the id on the other."""
        a, b = a.reshape(-1), b.reshape(-1)
        if len(a) > 1:
            self.meet(a, b)
        self.equate(a, b, call)

    def equate(self, a: Tensor, b: Tensor, call: Call) -> None:
        """Like `unify`, where the operation combines no values: a trial cut need not find the ids together here."""
        a, b = a.reshape(-1), b.reshape(-1)
        if torch.equal(a, b):
            return
        known = np.minimum(a.numpy(), b.numpy()) != NONE
        if not known.all():
            self.lock(torch.maximum(a, b)[~known], "combined with locked channels", call)
            a, b = a[known], b[known]
        if len(a):
            self.record.equal.append((a, b, call.site))

    def meet(self, a: Tensor, b: Tensor | None) -> None:
        """Record the ids that the running operation combines position by position or, without `b`, selects.

        A trial cut must find the same ids here, except for removed ones.
        """
        self.record.runs[-1].meetings.append(Meeting(a, b))

    def tie(self, a: Tensor, b: Tensor, call: Call) -> None:
        """Unify two compact facets of one shape, along the dimensions in which at least one of them varies."""
        both = varying(a) | varying(b)
        self.unify(core(a, both), core(b, both), call)

    def part(self, rows: Tensor, call: Call) -> None:
        """Require every row of ids (parts, n) to keep the same number of channels."""
        if len(rows) < 2:
            return
        if bool((rows == NONE).any()):
            self.unify(rows[:1].expand(len(rows) - 1, -1), rows[1:], call)
        else:
            self.record.parts.append(EqualParts(rows, call.site))

    def lock(self, ids: Tensor, reason: str, call: Call | None) -> None:
        """Record that ids must not be removed."""
        ids = distinct(ids)
        if len(ids):
            self.record.locks.append(LockRecord(ids, reason, call.site if call else None))

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

    # --- tracing ---------------------------------------------------------------------------------------------

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Skip PyTorch's per-call guard against compilation: nothing is compiled here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = tensors_in((*args, *kwargs.values()))
        self._here = {id(tensor): self._marks.get(tensor) for tensor in tensors}
        for tensor in tensors:
            if self._here[id(tensor)] is None:
                self.lock_alias(tensor)
        marks = [mark for mark in map(self.mark, tensors) if mark is not None]
        if not marks:
            out = func(*args, **kwargs)
            self.lifetimes.note(tensors, tensors_in(out if isinstance(out, tuple | list) else (out,)))
            return out
        op = operation(name_of(func))
        uncomputed = [t for t in tensors if not self.computed(t)]
        skip = self.shape_only and self._skips(op, args, uncomputed)
        run = self._begin(op, marks)
        # A hard-coded size may expand a tensor without channels.
        if self._sizes and (op.sized or any(mark.label for mark in marks)):
            self._sizes.note(op, func, (*args, *kwargs.values()), self.module, constants=len(marks) < len(tensors))
        self.used.update(map(id, tensors))
        out = stand_in(op, func, args, kwargs) if skip else func(*args, **kwargs)
        run.finished = True
        outputs = tensors_in(out if isinstance(out, tuple | list) else (out,))
        self.lifetimes.note(tensors, outputs)
        call = Call(func, _bind(func, args, kwargs), tensors, outputs, run.site)
        run.alone = self._single_channels(call, marks)
        labels = self._rules(self, call)
        if torch.Tag.pointwise in func.tags:
            run.numbers = self._numbers(call)
        if labels is not None:
            if op.parts:
                run.pieces = labels
            fixed = all(map(self.fixed, tensors))
            self._here = {}
            for tensor, label in zip(outputs, labels, strict=True):
                self._assign(tensor, Mark(label, not (uncomputed or skip), fixed), call)
        return out

    def _skips(self, op: Operation, args: tuple[Any, ...], uncomputed: list[Tensor]) -> bool:
        """Return whether a shape-only run skips an operation."""
        values = values_of(op, args, uncomputed)
        if values == "needed" and uncomputed:
            raise NeedsValues(op.name)
        return values == "skipped" or (values == "as inputs" and bool(uncomputed))

    def _begin(self, op: Operation, marks: list[Mark]) -> OperationRun:
        run = OperationRun(
            Site(op.name, self.module_name, *_user_frame()),
            activations=[mark.label for mark in marks if mark.label and not mark.fixed],
            weights=[mark.label for mark in marks if mark.label and mark.fixed],
        )
        self.record.runs.append(run)
        return run

    def _numbers(self, call: Call) -> list[float]:
        """List the numeric arguments of an operation."""
        made = [t.item() for t in call.tensors if t.numel() == 1 and self.mark(t) is None]
        return [*(value for value in call.arguments.values() if isinstance(value, int | float)), *made]

    def _single_channels(self, call: Call, marks: list[Mark]) -> list[tuple[int, str]]:
        """List ids that are the only channel of an input, with a description of the operation."""
        single = [core(facet).reshape(-1) for mark in marks for facet in mark.label if not varies(facet)]
        found = [(int(ids[0]), self._description(call)) for ids in single if len(ids) and int(ids[0]) != NONE]
        self.record.delicate |= bool(found)
        return found

    def _description(self, call: Call) -> str:
        """Describe an operation with its numeric arguments, which may depend on the channel's position."""
        constants = (t for t in call.tensors if self.mark(t) is None)
        numbers = [leaf for leaf in tree_leaves(list(call.arguments.values())) if not isinstance(leaf, Tensor)]
        return repr((call.site.op, numbers, [t.tolist() for t in constants]))

    def lock_alias(self, tensor: Tensor) -> None:
        """Lock the channels of an activation whose memory an unknown tensor shares: `nn.Parameter(activation)`."""
        life = self.lifetimes.known(tensor)
        if life is not None and life.activation:
            site = Site("shared memory", self.module_name, *_user_frame())
            ids = ids_in(self._held.get(life, ()))
            if len(ids):
                self.record.locks.append(LockRecord(ids, "left PyTorch's operations and came back", site))

    def _leaves(self, tensor: Tensor, how: str, values: bool) -> None:
        """Lock the channels of a tensor that is copied or read without an operation: where they go is unknown."""
        mark = self._marks.get(tensor)
        if mark is None:
            return
        if values and not mark.computed:
            raise NeedsValues(how)
        if mark.label:
            site = Site(how, self.module_name, *_user_frame())
            self.record.locks.append(LockRecord(ids_in(mark.label), "left PyTorch's operations", site))

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
            if whole.numel() == life.elements:  # outputs of `chunk` do not know their base
                self._held[life] = self.label(whole)

    def _write_through(self, base: Tensor, view: Tensor, mark: Mark, call: Call) -> None:
        """Copy ids that were written into a view to its base tensor."""
        old = self.label(base)
        if len(old) > 1 or len(mark.label) > 1 or not base.is_contiguous():
            self.lock_label((*old, *mark.label), "written into part of a tensor in an unsupported way", call)
            return
        whole = old[0].clone(memory_format=torch.contiguous_format) if old else torch.full(base.shape, NONE)
        part = whole.as_strided(view.shape, view.stride(), view.storage_offset() - base.storage_offset())
        part.copy_(mark.label[0] if mark.label else torch.tensor(NONE))
        before = self._marks.get(base)
        fixed = mark.fixed and (before is None or before.fixed)
        computed = mark.computed and (before is None or before.computed)
        self._marks[base] = Mark((compact(whole),), computed, fixed)

    def memory(self) -> list[tuple[Lifetime, Label]]:
        """List the activations that were alive during the run, with their labels."""
        return [(life, self._held.get(life, ())) for life in self.lifetimes.activations(self.outputs)]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Trace all modules and operations that run inside this block."""
        enter = register_module_forward_pre_hook(lambda module, _: self._stack.append(module))
        leave = register_module_forward_hook(self._leave, always_call=True)
        # PyTorch's fused attention for inference would hide its inner operations.
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        self._sizes = SizeQueries(self.record, self._leaves)
        try:
            with torch.no_grad(), self._sizes, self:
                yield
        finally:
            self._sizes = None
            torch.backends.mha.set_fastpath_enabled(fused)
            enter.remove()
            leave.remove()


def _same(a: Mark, b: Mark | None) -> bool:
    return b is not None and (a.computed, a.fixed) == (b.computed, b.fixed) and same(a.label, b.label)


def tensors_in(arguments: Iterable[Any]) -> list[Tensor]:
    """List the tensors among an operation's arguments or results, including those in lists."""
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
