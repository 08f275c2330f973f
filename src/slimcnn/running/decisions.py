"""What a run decides by timing, decided once: the layout and precision in which it trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from slimcnn.datasets import Dataset
from slimcnn.running import folder as disk
from slimcnn.training import Training, probe
from slimcnn.training.processes import from_rank_zero

if TYPE_CHECKING:
    from lightning_fabric import Fabric

FIXED = {"layout": "nchw", "precision": "32"}
"""What a deterministic run takes."""


@dataclass(frozen=True)
class Decisions:
    """The layout and precision of a run's trainings, where its settings say "auto".

    The first training that asks is timed, and the decision goes into run.json; the run keeps to it ever after, so the
    same recipe in the same folder ends with the same weights whenever and however often it was interrupted.
    """

    root: Path
    deterministic: bool
    fabric: Fabric

    def __call__(self, training: Training, model: nn.Module, data: Dataset) -> Training:
        """Replace "auto" by what was decided."""
        asked = [name for name in FIXED if getattr(training, name) == "auto"]
        if not asked:
            return training
        chosen = FIXED if self.deterministic else from_rank_zero(self.fabric, lambda: self._chosen(model, data))
        return training.model_copy(update={name: chosen[name] for name in asked})

    def _chosen(self, model: nn.Module, data: Dataset) -> dict[str, str]:
        known = disk.read_json(self.root / disk.RUN).get("training")
        if known is None:
            found = probe(model, data, Training(), device=self.fabric.device)
            known = {"layout": found.layout, "precision": found.precision}
            disk.remember(self.root, training=known)
        kept: dict[str, str] = known
        return kept
