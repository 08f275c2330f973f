"""Match the features that the last layer reads (MiR: Wang et al. 2022, arXiv 2201.02620)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimcnn.distillation.teachers import Teacher, teacher_of
from slimcnn.distillation.terms import losses
from slimcnn.errors import RecipeError
from slimcnn.modes import modes_restored
from slimcnn.objectives import InputOf, Seen, Term, Terms, watch

PERCENT = 100


@dataclass(frozen=True, eq=False)
class LastFeatures:
    """Where a network and its teacher have the features that their last layer reads, and how they are compared."""

    at: str | InputOf
    """The layer whose output they are, or of which they are the input."""
    rectified: bool
    """Whether the network applies a ReLU to them that is no layer of its own."""
    kept: Tensor | None
    """The teacher's channels that the network still has, (c,); None for all."""
    variance: float
    """Mean over the channels of the variance of the teacher's features."""

    def loss(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Compute the mean squared error of the features (n, c, ...), in percent of the variance of the teacher's."""
        found, wanted = found.float(), wanted.float()
        if self.kept is not None:
            wanted = wanted.index_select(1, self.kept.to(wanted.device))
        if self.rectified:
            found, wanted = found.relu(), wanted.relu()
        return PERCENT * (found - wanted).square().mean() / self.variance


def last_features(
    student: nn.Module, teacher: nn.Module, x: Tensor, kept: Mapping[str, Mapping[int, Tensor]]
) -> LastFeatures | None:
    """Find the features that the last layer of both networks reads, on images (n, c, h, w); None if they differ.

    If the last layer reads the mean over space of a layer's output, that output is compared, position by position: it
    says more about an image than its mean. What dropout hides in training is compared before it.

    `student` is `teacher` without some channels; `kept` says which ones it has along every axis of its parameters that
    lost some (`slimcnn.graph.removal.kept_positions`).

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> last_features(net, net, torch.randn(2, 1, 8, 8), {}).at
    '0'
    """
    few = x[:2]
    ours, theirs = _Run.of(student, few), _Run.of(teacher, few)
    if ours.last is None or ours.last != theirs.last or ours.read is None or theirs.read is None:
        return None
    a, b = ours.read, theirs.read
    along = kept.get(f"{ours.last}.weight", {}).get(1)
    if a.dim() not in (2, 4) or a.shape[2:] != b.shape[2:] or (a.shape[1] == b.shape[1]) != (along is None):
        return None
    if along is not None and along.shape != a.shape[1:2]:
        return None
    at, rectified = _source(ours, theirs)
    variance = _variance(teacher, at, rectified, along, x)
    return LastFeatures(at, rectified, along, variance) if variance > 0 else None


@losses.add("features", source="Wang et al. 2022, arXiv 2201.02620", weight=1.0, compares_features=True)
def features(teacher: Teacher | nn.Module) -> Terms:
    """Error of the features before the last layer, in percent of their variance; see `LastFeatures.loss`.

    The teacher must know which features belong together: `Teacher(network, compared=last_features(...))`. `tune` and
    `distill` know that if the student was made from their reference.

    Source: Wang et al. 2022, "Compressing models with few samples: mimicking then replacing" (arXiv 2201.02620), which
    compares what the last pooling reads. Deviations: channels may have been cut, the error is in percent of the
    variance, and the last layer stays as it was refitted, where the paper takes the teacher's.

    Raises:
        RecipeError: the teacher does not know which features belong together.
    """
    taught = teacher_of(teacher)
    where = taught.compared
    if where is None:
        raise RecipeError(
            "features: it is not known which features of student and teacher belong together: tune and distill know it "
            "if the network was made from the reference; in Python, give Teacher(network, compared=last_features(...))"
        )
    taught.watch([where.at])

    def value(seen: Seen) -> Tensor:
        return where.loss(seen.features[where.at], taught.features[where.at])

    return Terms(Term("features", value, teacher=taught, layers=(where.at,)))


@dataclass
class _Run:
    """What the layers of a network read and give on a few images."""

    last: str | None
    """The last layer that has parameters."""
    read: Tensor | None
    """Its input."""
    given: dict[str, Tensor]
    """The outputs of all layers before it, in the order in which they end."""

    @classmethod
    def of(cls, model: nn.Module, x: Tensor) -> _Run:
        run = cls(None, None, {})
        waiting: dict[str, Tensor] = {}

        def reads(name: str) -> Callable[..., None]:
            def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
                if inputs and isinstance(inputs[0], Tensor):
                    run.last, run.read = name, inputs[0]
                    run.given.update(waiting)
                    waiting.clear()

            return note

        def gives(name: str) -> Callable[..., None]:
            def note(_: nn.Module, __: object, output: Any) -> None:
                if isinstance(output, Tensor):
                    waiting.pop(name, None)
                    waiting[name] = output

            return note

        handles = []
        for name, module in model.named_modules():
            if next(module.parameters(recurse=False), None) is not None:
                handles.append(module.register_forward_pre_hook(reads(name)))
            handles.append(module.register_forward_hook(gives(name)))
        try:
            with modes_restored(model), torch.no_grad():
                model.eval()(x)
        finally:
            for handle in handles:
                handle.remove()
        return run


def _source(ours: _Run, theirs: _Run) -> tuple[str | InputOf, bool]:
    """Return the last output of which both last layers read the mean over space, or else what they read.

    What they read is the first output equal to it, if there is one: dropout behind it changes nothing in eval mode, but
    much in training.
    """
    assert ours.last is not None
    both = [name for name in theirs.given if name in ours.given]
    for name in reversed(both):
        for rectified in (False, True):
            if all(_is_mean(run, name, rectified) for run in (ours, theirs)):
                return name, rectified
    for name in both:
        if all(run.read is not None and _equal(run.given[name], run.read) for run in (ours, theirs)):
            return name, False
    return InputOf(ours.last), False


def _is_mean(run: _Run, name: str, rectified: bool) -> bool:
    given, read = run.given[name], run.read
    if read is None or given.dim() != 4 or given.shape[2:].numel() < 2:
        return False
    return _equal((given.relu() if rectified else given).mean(dim=(2, 3)), read)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-5)


def _variance(teacher: nn.Module, at: str | InputOf, rectified: bool, kept: Tensor | None, x: Tensor) -> float:
    with watch(teacher, [at]) as seen, modes_restored(teacher), torch.no_grad():
        teacher.eval()(x)
    found = seen[at].float() if kept is None else seen[at].float().index_select(1, kept.to(seen[at].device))
    found = found.relu() if rectified else found
    return float(found.var(dim=[axis for axis in range(found.dim()) if axis != 1], correction=0).mean())
