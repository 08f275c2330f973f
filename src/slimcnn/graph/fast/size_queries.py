"""Detect whether a network's code depends on tensor sizes; if not, trial cuts are unnecessary."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from slimcnn.graph import fast
from slimcnn.graph.operations import Operation
from slimcnn.graph.trace_record import TraceRecord

TORCH = torch.__path__[0]

ASKING = {getattr(Tensor, name).__get__ for name in ("shape", "nbytes")} | {
    Tensor.size, Tensor.numel, Tensor.nelement, Tensor.__len__, Tensor.stride, Tensor.is_same_size, Tensor.storage,
    Tensor.untyped_storage, torch.numel, torch.is_same_size,
}  # fmt: skip
"""Calls that reveal the number of channels."""

FLATTENING = {torch.flatten, Tensor.flatten}
"""Calls that reach the dispatcher as a `view` with sizes computed by PyTorch."""


READING = {Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__}
"""Calls that read values without an operation."""

COPYING = os.path.join(TORCH, "_tensor.py")
"""Code that asks for a tensor's memory to copy it without an operation: `copy`, `deepcopy`, pickle."""


class SizeQueries(TorchFunctionMode):
    """Detect whether the user's code reads the size of a tensor, or passes a size to an operation.

    Code that does neither runs on a pruned copy as on the original, and `TraceRecord.size_blind` stays True.
    `leaves(tensor, call, values)` is called for tensors that leave PyTorch's operations.
    """

    def __init__(self, record: TraceRecord, leaves: Callable[[Tensor, str, bool], None]) -> None:
        super().__init__()
        self._record = record
        self._leaves = leaves
        record.size_blind = fast.is_on()
        self._flattening = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FLATTENING:
            self._flattening = True
            try:
                return func(*args, **(kwargs or {}))
            finally:
                self._flattening = False
        if func in READING:
            self._leaves(args[0], func.__name__.strip("_"), True)
        elif func in ASKING:
            caller = sys._getframe(1).f_code.co_filename
            if func is Tensor.untyped_storage and caller == COPYING:
                self._leaves(args[0], "copy", False)
            elif not caller.startswith(TORCH):
                self._record.size_blind = False
        return func(*args, **(kwargs or {}))

    def note(
        self, op: Operation, func: Any, arguments: Iterable[Any], module: nn.Module | None, constants: bool
    ) -> None:
        """Check the arguments of an operation; `constants`: they include tensors created during the run."""
        plain = op.ordered or (self._flattening and op.kind == "view")
        if constants or not (plain or (_pointwise(func) and _numbers_are_built_in(arguments, module))):
            self._record.size_blind = False


def _pointwise(func: Any) -> bool:
    return torch.Tag.pointwise in func.tags


def _numbers_are_built_in(arguments: Iterable[Any], module: nn.Module | None) -> bool:
    """Whether all numeric arguments come from a layer of PyTorch (the 6 of a ReLU6)."""
    made_with = type(module).__module__ == "torch.nn.modules.activation"
    return made_with or not any(isinstance(value, int | float) for value in arguments)
