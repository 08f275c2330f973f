"""What training makes small: an objective is a function of a network and one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcnn.errors import ModelError, RecipeError


@dataclass(frozen=True)
class Loss:
    """The named terms of a loss, and the logits that they were computed from.

    >>> Loss({"cross_entropy": torch.tensor(0.5), "kd": torch.tensor(1.5)}, torch.zeros(2, 10)).total
    tensor(2.)
    """

    terms: Mapping[str, Tensor]
    """Scalars, each a mean over the batch; their sum is what is minimised."""
    logits: Tensor
    """`(n, classes)`, the network's answer, from which the training accuracy is counted."""
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    """For every term, the L1 norm of its gradient with respect to a sample's logits, mean over the batch."""

    @property
    def total(self) -> Tensor:
        """The sum of the terms: the scalar that is differentiated."""
        first, *others = self.terms.values()
        for term in others:
            first = first + term
        return first


Objective = Callable[[nn.Module, Tensor, Tensor], Loss]
"""(network, images `(n, c, h, w)`, labels `(n,)`) → the loss of this batch; every term is a mean over images.

With a method `prepare(model, feed)`, one sees the training images once before the first step, not augmented: `feed()`
gives batches (x, y).  With `before_step(epoch)` it is told before every step how many epochs are done (2.5: in the
middle of the third), and with `seeing(indices, view)`, in a training with `views`, which images the next batch holds;
with `after_step(model, optimizer)` it is told of every step of the optimizer, and may change
weights then.  A training with `mixup` calls `mixed(model, x, labels, share)` instead: see `Terms.mixed`.
"""

Teaching = Callable[[nn.Module, Tensor], Tensor]
"""(student, images) → the teacher's logits `(n, classes)`, to which no gradient belongs."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A batch, and what the network and its teachers make of it."""

    x: Tensor
    y: Tensor
    logits: Tensor
    """The network's, `(n, classes)`."""
    answers: Mapping[Teaching, Tensor]
    features: Mapping[str, Tensor]
    """What the network's layers make that a term asked for, by name."""


@dataclass(frozen=True, eq=False)
class Term:
    """One term of an objective: a named mean over the images of a batch, times a weight."""

    name: str
    value: Callable[[Seen], Tensor]
    weight: float = 1.0
    teacher: Teaching | None = None
    layers: tuple[str, ...] = ()
    """Layers of the network whose output the term looks at."""
    warmup: float = 0.0
    """Epochs over which the weight grows from 0."""
    prepare: Callable[[nn.Module, Iterator[tuple[Tensor, Tensor]]], None] | None = None
    """Called once before training with the network and all training images, not augmented, in batches (x, y)."""


class Terms:
    """An objective that is a sum: ``cross_entropy() + 0.9 * kd(teacher) + 0.5 * scale_factor(teacher)``.

    The network sees a batch once, and so does a teacher that several terms have in common.
    """

    def __init__(self, *terms: Term) -> None:
        names = [term.name for term in terms]
        self.terms = tuple(
            term if names.count(term.name) == 1 else replace(term, name=f"{term.name}_{names[:k].count(term.name) + 1}")
            for k, term in enumerate(terms)
        )
        self._epoch = float("inf")

    def __add__(self, other: Terms) -> Terms:
        return Terms(*self.terms, *other.terms)

    def __rmul__(self, factor: float) -> Terms:
        if not 0 <= factor < float("inf"):
            raise RecipeError(f"a loss cannot have the weight {factor}: give a number of at least 0")
        return Terms(*(replace(term, weight=factor * term.weight) for term in self.terms))

    def prepare(self, model: nn.Module, feed: Callable[[], Iterator[tuple[Tensor, Tensor]]]) -> None:
        """Let terms look at the training images before the first step."""
        for term in self.terms:
            if term.prepare is not None:
                term.prepare(model, feed())

    def seeing(self, indices: Tensor, view: int) -> None:
        """Tell teachers which training images the next batch is, and in which view."""
        for teacher in {term.teacher for term in self.terms if term.teacher is not None}:
            tell = getattr(teacher, "seeing", None)
            if tell is not None:
                tell(indices, view)

    def before_step(self, epoch: float) -> None:
        """Take notice of how far the training is: weights may grow at its beginning."""
        self._epoch = epoch

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Loss:
        """Give all terms of one batch, and the size of the gradient that each sends to the logits."""
        return self.mixed(model, x, (y,), 1.0)

    def mixed(self, model: nn.Module, x: Tensor, labels: Sequence[Tensor], share: float) -> Loss:
        """Give all terms of images mixed of two: `share` of one with `labels[0]`, the rest of one with `labels[1]`.

        Each term is averaged over both labels with these weights; networks run once.
        """
        layers = {layer for term in self.terms for layer in term.layers}
        with _watched(model, layers) as features:
            logits = class_scores(model(x), len(x))
        teachers = {term.teacher for term in self.terms if term.teacher is not None}
        answers = {teacher: teacher(model, x) for teacher in teachers}
        seen = [Seen(x, y, logits, answers, features) for y in labels]
        terms = {term.name: self._weight(term) * _mean(term, seen, share) for term in self.terms}
        return Loss(terms, logits, _gradients(terms, logits) if len(terms) > 1 else {})

    def _weight(self, term: Term) -> float:
        return term.weight * min(1.0, self._epoch / term.warmup) if term.warmup else term.weight


def _mean(term: Term, seen: Sequence[Seen], share: float) -> Tensor:
    if len(seen) == 1:
        return term.value(seen[0])
    return share * term.value(seen[0]) + (1 - share) * term.value(seen[1])


def _gradients(terms: Mapping[str, Tensor], logits: Tensor) -> dict[str, Tensor]:
    """Measure what each term sends back to the logits: the L1 norm of a sample's gradient, mean over the batch."""
    if not logits.requires_grad:
        return {}
    found = {}
    for name, term in terms.items():
        known = term.requires_grad
        (gradient,) = torch.autograd.grad(term, logits, retain_graph=True, allow_unused=True) if known else (None,)
        found[name] = gradient.float().abs().sum() if gradient is not None else logits.new_zeros(())
    return found


@contextmanager
def _watched(model: nn.Module, layers: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Note what layers make while a batch goes through the network."""
    found: dict[str, Tensor] = {}

    def noting(layer: str) -> Callable[[nn.Module, object, Tensor], None]:
        def note(_: nn.Module, __: object, made: Tensor) -> None:
            found[layer] = made

        return note

    handles = [layer_named(model, layer).register_forward_hook(noting(layer)) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def layer_named(model: nn.Module, layer: str) -> nn.Module:
    """Find a layer, also where others run the network inside of modules of their own; `ModelError` if there is none."""
    found: list[nn.Module] = [
        module for name, module in model.named_modules() if name == layer or name.endswith(f"module.{layer}")
    ]
    if not found:
        raise ModelError(f"the network {type(model).__name__} has no layer {layer!r} whose features could be compared")
    return found[0]


def cross_entropy(label_smoothing: float = 0.0) -> Terms:
    """Cross entropy between the network's softmax and the labels, mean over the batch.

    Smoothing `s` in [0, 1) mixes the label with the uniform distribution (Szegedy et al. 2016):
    `q = (1 - s) · onehot(y) + s / classes`.  Computed in float32 whatever the network's precision.

    >>> loss = cross_entropy()(torch.nn.Flatten(), torch.zeros(2, 4, 1, 1), torch.tensor([0, 3]))
    >>> {name: round(term.item(), 4) for name, term in loss.terms.items()}   # log 4
    {'cross_entropy': 1.3863}
    """
    if not 0 <= label_smoothing < 1:
        raise RecipeError(f"label_smoothing is {label_smoothing}: give a number of at least 0 and below 1")

    def value(seen: Seen) -> Tensor:
        return F.cross_entropy(seen.logits.float(), seen.y, label_smoothing=label_smoothing)

    return Terms(Term("cross_entropy", value))


def class_scores(output: object, images: int) -> Tensor:
    """The network's output, if it is what a classifier's should be; `ModelError` otherwise.

    >>> class_scores(torch.zeros(2, 10), images=2).shape
    torch.Size([2, 10])
    >>> class_scores(torch.zeros(2, 10, 4), images=2)
    Traceback (most recent call last):
    slimcnn.errors.ModelError: the network answers 2 images with a tensor (2, 10, 4): a classifier answers (2, classes)
    """
    if not isinstance(output, Tensor):
        found = f"a {type(output).__name__}"
    elif output.dim() != 2 or len(output) != images:
        found = f"a tensor {tuple(output.shape)}"
    else:
        return output
    raise ModelError(f"the network answers {images} images with {found}: a classifier answers ({images}, classes)")
