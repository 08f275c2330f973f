"""Whether a network's code could tell a cut copy from the whole: only then a trial cut can teach anything."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from slimcnn.graph.ledger import Ledger

TORCH = torch.__path__[0]

ASKING = {getattr(Tensor, name).__get__ for name in ("shape", "nbytes")} | {
    Tensor.size, Tensor.numel, Tensor.nelement, Tensor.__len__, Tensor.stride, Tensor.is_same_size, Tensor.storage,
    Tensor.untyped_storage, torch.numel, torch.is_same_size,
}  # fmt: skip
"""What tells how many channels there are."""

FLATTENING = {torch.flatten, Tensor.flatten}
"""What is watched as a `view` with sizes that PyTorch computed."""

WITHOUT_SIZES = {
    *"""convolution native_batch_norm _native_batch_norm_legit_no_training batch_norm addmm mm t cat mean
    _adaptive_avg_pool2d avg_pool2d max_pool2d_with_indices upsample_nearest2d upsample_bilinear2d detach alias
    clone""".split()
}
"""Operations that keep channels in order and have no argument that depends on how many there are."""


class SizesAsked(TorchFunctionMode):
    """Watches a run for sizes: does the user's code ask a tensor for its size, or write one into an operation?

    Code that does neither runs on a cut copy as on the whole, and `Ledger.cut_blind` stays true.
    """

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger
        self._flattening = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FLATTENING:
            self._flattening = True
            try:
                return func(*args, **(kwargs or {}))
            finally:
                self._flattening = False
        if func in ASKING and not sys._getframe(1).f_code.co_filename.startswith(TORCH):
            self._ledger.cut_blind = False
        return func(*args, **(kwargs or {}))

    def note(self, name: str, func: Any, arguments: Iterable[Any], module: nn.Module | None, constants: bool) -> None:
        """Take notice of an operation, by its name, the arguments given, and whether constants are among them."""
        if constants or not (self._plain(name) or (_pointwise(func) and _numbers_are_built_in(arguments, module))):
            self._ledger.cut_blind = False

    def _plain(self, name: str) -> bool:
        return name in WITHOUT_SIZES or (self._flattening and name in ("view", "_unsafe_view"))


def _pointwise(func: Any) -> bool:
    return torch.Tag.pointwise in func.tags


def _numbers_are_built_in(arguments: Iterable[Any], module: nn.Module | None) -> bool:
    """Ask whether an operation has no numbers but those that a layer of PyTorch was made with (the 6 of a ReLU6)."""
    made_with = type(module).__module__ == "torch.nn.modules.activation"
    return made_with or not any(isinstance(value, int | float) for value in arguments)
