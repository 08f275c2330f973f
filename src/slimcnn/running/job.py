"""What all steps of a run have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from slimcnn.running.decisions import Decisions
from slimcnn.running.loading import Loaded
from slimcnn.running.recipe import Recipe
from slimcnn.running.step import Facts
from slimcnn.show import Show

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
    decisions: Decisions
    command: str = ""
    given: nn.Module | None = None
    """The network, where Python gave it and no name."""
    shared: dict[str, Any] = field(default_factory=dict)
    """See `Context.shared`."""
