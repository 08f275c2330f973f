"""What all steps of a run have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from slimcnn.datasets import Dataset
from slimcnn.running.folder import DECISION
from slimcnn.running.loading import Loaded
from slimcnn.running.recipe import Recipe
from slimcnn.running.step import Facts
from slimcnn.show import Show
from slimcnn.training import Training, decided, deterministic

if TYPE_CHECKING:
    from lightning_fabric import Fabric

FROM_WEIGHTS: Facts = frozenset({"trained", "reference"})
"""What is known of a network that comes with weights."""


@dataclass(frozen=True)
class Job:
    """What all steps of a run have in common."""

    recipe: Recipe
    root: Path
    """The run's folder."""
    loaded: Loaded
    fabric: Fabric
    show: Show
    command: str = ""
    given: nn.Module | None = None
    """The network, where Python gave it and no name."""
    shared: dict[str, Any] = field(default_factory=dict)
    """See `Context.shared`."""

    def decide(self, training: Training, model: nn.Module, data: Dataset) -> Training:
        """Replace "auto" for layout and precision: by what is fastest, timed once a folder, or by fixed values."""
        if self.recipe.deterministic:
            return deterministic(training)
        return decided(model, data, training, self.root / DECISION, fabric=self.fabric)
