"""Restore training and eval mode module by module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def modes_restored(*models: nn.Module) -> Iterator[None]:
    """Restore the mode of every module after the block, also after an error.

    `train()` is not used: it sets all submodules to the same mode, and layers may override it.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3).eval())
    >>> with modes_restored(model):
    ...     _ = model.eval()
    >>> model.training, model[0].training, model[1].training
    (True, True, False)
    """
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
