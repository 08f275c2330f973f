"""Choose memory format and precision once per run: measuring again could change the weights of the same command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict
from torch import nn

from slimcnn.datasets import Dataset
from slimcnn.files import read_decision, write_text
from slimcnn.training.probing import Layout, Precision, probe
from slimcnn.training.processes import from_rank_zero, launched
from slimcnn.training.settings import Training

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Decision(BaseModel):
    """The fastest measured values of the settings that were `"auto"`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Layout | None = None
    precision: Precision | None = None


def decided(
    model: nn.Module, dataset: Dataset, training: Training, path: Path | str, *, fabric: Fabric | None = None
) -> Training:
    """Replace every `"auto"` with the choice stored in the file `path`; the first call measures and writes it.

    The first call runs `probe` and writes a JSON file atomically. Later calls only read it, so that the same command
    gives the same weights. Settings other than `"auto"` stay; if there is no `"auto"`, the file is not used.
    With a `fabric` of several processes, rank 0 chooses for all, on its device.

    Raises:
        RunError: the file cannot be read, is damaged, or cannot be written.

    >>> import tempfile
    >>> from slimcnn.datasets import load_dataset
    >>> model, digits = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10)), load_dataset("digits")
    >>> path = Path(tempfile.mkdtemp()) / "decision.json"
    >>> first = decided(model, digits, Training(), path)
    >>> first.resolved, decided(model, digits, Training(), path) == first
    (True, True)
    """
    if training.resolved:
        return training
    place, fabric = Path(path), launched(fabric)

    def decide() -> Training:
        stored = read_decision(place, Decision, "measure layout and precision again")
        known = stored.model_dump(exclude_none=True) if stored else {}
        asked = [name for name in Decision.model_fields if getattr(training, name) == "auto"]
        found = training.model_copy(update={name: known[name] for name in asked if name in known})
        if not found.resolved:
            found = probe(model, dataset, found, device=fabric.device)
            decision = Decision.model_validate(known | {name: getattr(found, name) for name in asked})
            write_text(place, decision.model_dump_json(indent=2, exclude_none=True) + "\n")
        return found

    return from_rank_zero(fabric, decide)


def deterministic(training: Training) -> Training:
    """Replace every `"auto"` with a fixed choice, the same on every machine: nchw and float32.

    >>> chosen = deterministic(Training(layout="channels_last"))
    >>> chosen.layout, chosen.precision
    ('channels_last', '32')
    """
    fixed = {"layout": "nchw", "precision": "32"}
    return training.model_copy(update={name: fixed[name] for name in fixed if getattr(training, name) == "auto"})
