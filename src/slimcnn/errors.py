"""All exceptions.

::

    SlimcnnError              one line: what was asked, what was found, what to do
    ├── UnknownName           no such criterion, network, dataset ... (with "did you mean")
    ├── PluginError           a plugin cannot be imported, or registers a name that is already taken
    ├── ModelError            a network cannot be built, or does not accept its example input
    ├── WeightsError          a weights file does not fit, is damaged, or is not safe to read
    │   └── CheckpointError   the same, for a checkpoint of slimcnn
    ├── DataError             a dataset is missing, damaged or invalid
    ├── CriterionError        a criterion lacks what it needs (data, batch norm, a scope)
    ├── TargetError           a target is invalid
    │   └── TargetUnreachable a target is valid, but this network cannot meet it
    ├── SearchError           a search finds no configuration, or cannot be joined
    ├── PlanError             a plan is invalid, or made for another network
    ├── ExportError           a format cannot express the network; a runtime is missing or its outputs differ
    ├── OptimizerError        an optimizer does not train the given network
    ├── NotEqual              prune(model) and mask(model) differ: a bug in slimcnn; no pruned model is returned
    ├── TrainingDiverged      a loss is not finite
    ├── RunError              an output folder cannot be used, or the disk is full
    │   └── FolderInUse       another process uses the output folder
    ├── RecipeError           a recipe is invalid
    └── StudyError            a study is invalid, or differs from the one in its folder or storage

Every message is one line. The command line prints it and exits with code 2. No other exception is a user error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class Note(UserWarning):
    """A warning that the command line prints as one line."""


class SlimcnnError(Exception):
    """Base class of errors the user can fix."""


def _common_prefix(a: str, b: str) -> int:
    """Return the length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ": did you mean ...?" with the most similar name; an empty string if there is none.

    >>> did_you_mean("pruen", ["prune", "train"]), did_you_mean("x", ["prune"])
    (": did you mean 'prune'?", '')
    """
    close = get_close_matches(name, list(known), n=3)
    # Ties go to the longest common prefix: resnet21 suggests resnet20 rather than resnet32.
    best = max(close, key=lambda other: _common_prefix(name, other), default=None)
    return f": did you mean {best!r}?" if best else ""


class UnknownName(SlimcnnError):
    """Raised if a registry does not have a name.

    >>> print(UnknownName("criterion", "fpfd", ["fpdf", "l1", "l2"]))
    unknown criterion 'fpfd': did you mean 'fpdf'? Known: fpdf, l1, l2
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        hint = did_you_mean(name, known) or ":"
        super().__init__(f"unknown {kind} {name!r}{hint} Known: {', '.join(known)}")


class PluginError(SlimcnnError):
    """Raised if a plugin cannot be used."""


class ModelError(SlimcnnError):
    """Raised if a network cannot be built or run."""


class WeightsError(SlimcnnError):
    """Raised if a weights file cannot be used."""


class CheckpointError(WeightsError):
    """Raised if a checkpoint cannot be used."""


class DataError(SlimcnnError):
    """Raised if images or labels cannot be used."""


class CriterionError(SlimcnnError):
    """Raised if a criterion lacks what it needs."""


class TargetError(SlimcnnError):
    """Raised if a target is invalid."""


class TargetUnreachable(TargetError):
    """Raised if a network cannot meet the target; `best` holds the lowest values it can reach, as {"macs": 0.31}."""

    def __init__(self, message: str, best: Mapping[str, float] | None = None) -> None:
        super().__init__(message)
        self.best = dict(best or {})


class SearchError(SlimcnnError):
    """Raised if a search cannot be run, joined or resumed."""


class PlanError(SlimcnnError):
    """Raised if a plan is invalid or does not belong to this network."""


class ExportError(SlimcnnError):
    """Raised if a network cannot be exported, or an exported file cannot be used."""


class OptimizerError(SlimcnnError):
    """Raised if an optimizer does not train the given network."""


class NotEqual(SlimcnnError):
    """Raised if the outputs of the pruned and the masked network differ."""


class TrainingDiverged(SlimcnnError):
    """Raised if a loss is not finite."""


class RunError(SlimcnnError):
    """Raised if a run folder cannot be used."""


class FolderInUse(RunError):
    """Raised if another process uses an output folder."""


class RecipeError(SlimcnnError):
    """Raised if a recipe is invalid."""


class StudyError(SlimcnnError):
    """Raised if a study is invalid, or differs from the one in its folder or storage."""
