"""Objectives that are sums of named terms, computed from the outputs of the network and its teachers on a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from slimcnn.errors import ModelError, RecipeError
from slimcnn.objectives.objective import Feed, Loss, Objective, ReadScores, read_classes


class Teaching(Protocol):
    """The interface of a teacher, such as `slimcnn.distillation.Teacher`."""

    def seeing(self, indices: Tensor, view: int) -> None:
        """Receive the indices and the view of the next batch's training images (see `Objective.seeing`)."""

    def reading(self, scores: ReadScores) -> None:
        """Use this function to read scores from a teacher's output."""

    def __call__(self, student: nn.Module, x: Tensor, /) -> Tensor:
        """Compute the teacher's logits `(n, classes)`, without gradients."""


@dataclass(frozen=True)
class InputOf:
    """The input of a layer, where a layer's name stands for its output."""

    layer: str


@dataclass(frozen=True, eq=False)
class Seen:
    """A batch, and the outputs of the network and its teachers on it."""

    x: Tensor
    y: Tensor
    logits: Tensor
    """The network's logits, `(n, classes)`."""
    answers: Mapping[Teaching, Tensor]
    """The logits of each teacher."""
    features: Mapping[str | InputOf, Tensor]
    """The outputs, or inputs, of the layers that the terms need."""
    output: Any = None
    """The network's output, from which `logits` were read."""


@dataclass(frozen=True, eq=False)
class Term:
    """One term of an objective: a named mean over the images of a batch, times a weight."""

    name: str
    value: Callable[[Seen], Tensor]
    weight: float = 1.0
    teacher: Teaching | None = None
    layers: tuple[str | InputOf, ...] = ()
    """Layers of the network whose outputs, or inputs, the term needs."""
    warmup: float = 0.0
    """Number of epochs over which the weight grows from 0."""
    prepare: Callable[[nn.Module, Iterator[tuple[Tensor, Tensor]]], None] | None = None
    """Called once before training with the network and all training images, not augmented, in batches (x, y)."""


class Terms(Objective):
    """An objective that is a sum: ``cross_entropy() + 0.9 * kd(teacher) + 0.5 * scale_factor(teacher)``.

    The network runs once per batch, and so does a teacher that several terms share.
    """

    def __init__(self, *terms: Term) -> None:
        names = [term.name for term in terms]
        self.terms = tuple(
            term if names.count(term.name) == 1 else replace(term, name=f"{term.name}_{names[:k].count(term.name) + 1}")
            for k, term in enumerate(terms)
        )
        self._epoch = float("inf")
        self._scores: ReadScores = read_classes

    def __add__(self, other: Terms) -> Terms:
        return Terms(*self.terms, *other.terms)

    def __str__(self) -> str:
        return " + ".join(f"{term.weight:g} {term.name}" for term in self.terms)

    def __rmul__(self, factor: float) -> Terms:
        if not 0 <= factor < float("inf"):
            raise RecipeError(f"the weight of a loss term is {factor}: give a finite number of at least 0")
        return Terms(*(replace(term, weight=factor * term.weight) for term in self.terms))

    def reading(self, scores: ReadScores) -> None:
        """Read scores with this function, also from the outputs of teachers."""
        self._scores = scores
        for teacher in {term.teacher for term in self.terms if term.teacher is not None}:
            teacher.reading(scores)

    def prepare(self, model: nn.Module, feed: Feed) -> None:
        """Call the `prepare` function of every term."""
        for term in self.terms:
            if term.prepare is not None:
                term.prepare(model, feed())

    def seeing(self, indices: Tensor, view: int) -> None:
        """Pass the indices and the view of the next batch to the teachers."""
        for teacher in {term.teacher for term in self.terms if term.teacher is not None}:
            teacher.seeing(indices, view)

    def before_step(self, epoch: float) -> None:
        """Store the training progress, which sets the weights during warmup."""
        self._epoch = epoch

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Loss:
        """Compute all terms of one batch, and the size of each term's gradient at the logits."""
        return self.mixed(model, x, (y,), 1.0)

    def mixed(self, model: nn.Module, x: Tensor, labels: Sequence[Tensor], share: float) -> Loss:
        """Compute all terms of mixed images: `share` of one with `labels[0]`, the rest of another with `labels[1]`.

        Each term is averaged over both labels with these weights; each network runs once.
        """
        layers = {layer for term in self.terms for layer in term.layers}
        with watch(model, layers) as features:
            output = model(x)
        logits = self._scores(output, x)
        teachers = {term.teacher for term in self.terms if term.teacher is not None}
        answers = {teacher: teacher(model, x) for teacher in teachers}
        seen = [Seen(x, y, logits, answers, features, output) for y in labels]
        terms = {term.name: self._weight(term) * _mean(term, seen, share) for term in self.terms}
        return Loss(terms, logits, _gradients(terms, logits) if len(terms) > 1 else {})

    def _weight(self, term: Term) -> float:
        return term.weight * min(1.0, self._epoch / term.warmup) if term.warmup else term.weight


def _mean(term: Term, seen: Sequence[Seen], share: float) -> Tensor:
    if len(seen) == 1:
        return term.value(seen[0])
    return share * term.value(seen[0]) + (1 - share) * term.value(seen[1])


def _gradients(terms: Mapping[str, Tensor], logits: Tensor) -> dict[str, Tensor]:
    """Compute each term's gradient at the logits: the L1 norm of a sample's gradient, mean over the batch."""
    if not logits.requires_grad:
        return {}
    found = {}
    for name, term in terms.items():
        known = term.requires_grad
        (gradient,) = torch.autograd.grad(term, logits, retain_graph=True, allow_unused=True) if known else (None,)
        found[name] = gradient.float().abs().sum() if gradient is not None else logits.new_zeros(())
    return found


@contextmanager
def watch(model: nn.Module, layers: Iterable[str | InputOf]) -> Iterator[dict[str | InputOf, Tensor]]:
    """Record the outputs, or inputs, of layers while a batch runs through the network.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    >>> with watch(net, ["0", InputOf("1")]) as seen:
    ...     _ = net(torch.ones(1, 3, 1, 1))
    >>> torch.equal(seen["0"], seen[InputOf("1")])
    True
    """
    found: dict[str | InputOf, Tensor] = {}
    handles = [record_into(found, model, layer) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def record_into(found: dict[str | InputOf, Tensor], model: nn.Module, layer: str | InputOf) -> RemovableHandle:
    """Record the output, or the input, of a layer at every run of the network, until the handle is removed."""
    if isinstance(layer, InputOf):

        def read(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found[layer] = inputs[0]

        return layer_named(model, layer.layer).register_forward_pre_hook(read)

    def given(_: nn.Module, __: object, output: Tensor) -> None:
        found[layer] = output

    return layer_named(model, layer).register_forward_hook(given)


def layer_named(model: nn.Module, layer: str) -> nn.Module:
    """Return a layer by name, also if a wrapper (DDP, Fabric) prefixes its name; `ModelError` if there is none."""
    found: list[nn.Module] = [
        module for name, module in model.named_modules() if name == layer or name.endswith(f"module.{layer}")
    ]
    if not found:
        raise ModelError(f"the network {type(model).__name__} has no layer {layer!r}: give a name of named_modules()")
    return found[0]
