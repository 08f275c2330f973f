"""What a run starts from, and how it tells what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.datasets import Dataset

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
"""(what, steps done, steps in all)."""


@dataclass(frozen=True)
class Show:
    """How a run tells what it does; silent by default."""

    say: Say = lambda _: None
    progress: Progress = lambda *_: None


SILENT = Show()


@dataclass(frozen=True)
class Start:
    """The original network with everything that a cut needs."""

    model: nn.Module
    dataset: Dataset
    """With the normalisation that the weights expect."""
    normalisation: str
    """How it was found."""
    notes: tuple[str, ...] = ()

    @property
    def example(self) -> Tensor:
        """One input of the right shape, (1, c, h, w)."""
        return torch.zeros(1, *self.dataset.shape)

    def information(self, validation_top1: float) -> dict[str, Any]:
        """Say what travels along with a checkpoint."""
        return {
            "dataset": self.dataset.name,
            "classes": list(self.dataset.classes),
            "input": list(self.dataset.shape),
            "normalisation": {
                "mean": list(self.dataset.normalisation.mean), "std": list(self.dataset.normalisation.std),
            },
            "validation_top1": validation_top1,
        }  # fmt: skip
