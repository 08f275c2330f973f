"""What can go wrong, as a tree.

::

    SlimcnnError              one line: what was asked, what was found, what to do
    ├── UnknownName           no such criterion, network, dataset ... (with "did you mean")
    ├── PluginError           a plugin that cannot be imported, or registers a name that is taken
    ├── ModelError            a network cannot be built, or does not accept its example input
    │   └── TraceError        a network ran, but its channels cannot be followed at all
    ├── WeightsError          a weights file does not fit, is damaged, or is not safe to read
    │   └── CheckpointError   the same, for a checkpoint of ours
    ├── DataError             a dataset is missing, damaged, or not what it should be
    ├── CriterionError        a criterion lacks what it needs (data, batch norm, a scope)
    ├── TargetError           a target that makes no sense
    │   └── TargetUnreachable a sensible target that this network cannot meet
    ├── SearchError           a search that finds nothing, or cannot be joined
    ├── PlanError             a plan for another network, or an impossible one
    ├── ExportError           a network that a format cannot hold, a runtime that is missing or answers otherwise
    ├── OptimizerError        an optimizer that trains another network than the one in hand
    ├── NotEqual             prune(model) and mask(model) disagree: a bug of ours, never handed over
    ├── TrainingDiverged      a loss that is not finite
    ├── RunError              an output folder that cannot be used, or a full disk
    └── RecipeError           a recipe file that cannot be understood

Every message is one line. The command line prints it and exits with 2; nothing else is a user error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class SlimcnnError(Exception):
    """Any error that a user can mend."""


def _alike(a: str, b: str) -> int:
    """Count the letters that two names begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class UnknownName(SlimcnnError):
    """A name that no registry entry has.

    >>> print(UnknownName("criterion", "fpfd", ["fpdf", "l1", "l2"]))
    unknown criterion 'fpfd': did you mean 'fpdf'? Known: fpdf, l1, l2
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        close = get_close_matches(name, known, n=3)
        # Of equally close names the one that begins alike is meant: resnet21 is resnet20 rather than resnet32.
        best = max(close, key=lambda other: _alike(name, other), default=None)
        hint = f"did you mean {best!r}? " if best else ""
        super().__init__(f"unknown {kind} {name!r}: {hint}Known: {', '.join(known)}")


class PluginError(SlimcnnError):
    """A plugin that cannot be used."""


class ModelError(SlimcnnError):
    """A network that cannot be built or run."""


class TraceError(ModelError):
    """A network whose channels cannot be followed."""


class WeightsError(SlimcnnError):
    """A weights file that cannot be used."""


class CheckpointError(WeightsError):
    """A checkpoint that cannot be used."""


class DataError(SlimcnnError):
    """Images or labels that cannot be used."""


class CriterionError(SlimcnnError):
    """A criterion that lacks what it needs."""


class TargetError(SlimcnnError):
    """A target that makes no sense."""


class TargetUnreachable(TargetError):
    """A target that this network cannot meet; `best` is what it can, such as {"macs": 0.31}."""

    def __init__(self, message: str, best: Mapping[str, float] | None = None) -> None:
        super().__init__(message)
        self.best = dict(best or {})


class SearchError(SlimcnnError):
    """A search that cannot be done, joined or gone on with."""


class PlanError(SlimcnnError):
    """A plan that does not belong to this network."""


class ExportError(SlimcnnError):
    """A network that cannot be exported, or a file for a runtime that cannot be used."""


class OptimizerError(SlimcnnError):
    """An optimizer that does not train the network in hand."""


class NotEqual(SlimcnnError):
    """The pruned network is not the masked network."""


class TrainingDiverged(SlimcnnError):
    """A loss that is not finite."""


class RunError(SlimcnnError):
    """A run folder that cannot be used."""


class RecipeError(SlimcnnError):
    """A recipe that cannot be understood."""
