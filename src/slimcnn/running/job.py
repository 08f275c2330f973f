"""Values shared by all steps of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from slimcnn.datasets import Dataset
from slimcnn.running.folder import DECISION
from slimcnn.running.loading import Loaded
from slimcnn.running.recipe import Recipe
from slimcnn.running.sharing import Sharing
from slimcnn.show import Show
from slimcnn.training import Training, decided, deterministic

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Job:
    """Values shared by all steps of a run."""

    recipe: Recipe
    root: Path
    """The run folder."""
    loaded: Loaded
    fabric: Fabric
    show: Show
    command: str = ""
    given: nn.Module | None = None
    """The caller's network, for a run started from Python."""
    shared: dict[str, Any] = field(default_factory=dict)
    """See `Context.shared`."""
    sharing: Sharing | None = None
    """What this run has in common with the other runs of a study."""

    @property
    def decision(self) -> Path:
        """The file with the training layout and precision, chosen by timing."""
        return self.root / DECISION if self.sharing is None else self.sharing.decision(self.recipe.network)

    def decide(self, training: Training, model: nn.Module, data: Dataset) -> Training:
        """Replace "auto" layout and precision: by fixed values if deterministic, else by the fastest, timed once."""
        if self.recipe.deterministic:
            return deterministic(training)
        return decided(model, data, training, self.decision, fabric=self.fabric)
