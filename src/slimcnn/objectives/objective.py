"""The interface of an objective: the loss of one batch, and optional hooks that `fit` calls around it."""

# ruff: noqa: B027  (hooks are optional: they do nothing unless a class overrides them)

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.optim import Optimizer

from slimcnn.errors import ModelError, RecipeError


@dataclass(frozen=True)
class Loss:
    """The named terms of a loss, and the logits that they were computed from.

    >>> import torch
    >>> Loss({"cross_entropy": torch.tensor(0.5), "kd": torch.tensor(1.5)}, torch.zeros(2, 10)).total
    tensor(2.)
    """

    terms: Mapping[str, Tensor]
    """Scalars, each a mean over the batch; their sum is minimized."""
    logits: Tensor
    """`(n, classes)`, the network's output, from which the training accuracy is counted."""
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    """For every term, the L1 norm of its gradient with respect to a sample's logits, mean over the batch."""

    @property
    def total(self) -> Tensor:
        """The sum of the terms: the scalar that is differentiated."""
        first, *others = self.terms.values()
        for term in others:
            first = first + term
        return first


LossFunction = Callable[[nn.Module, Tensor, Tensor], Loss]
"""(network, images `(n, c, h, w)`, labels `(n,)`) → the loss of this batch."""

Feed = Callable[[], Iterator[tuple[Tensor, Tensor]]]
"""Gives the training images in batches (x, y), normalized and not augmented, from the first at every call."""


class Objective(ABC):
    """The loss of one batch; every term is a mean over its images.

    `fit` calls the hooks in the order below. An objective around another one must pass every hook on to it.

    >>> import torch
    >>> class LogitDecay(Objective):
    ...     def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Loss:
    ...         logits = model(x)
    ...         return Loss({"logits": logits.square().mean()}, logits)
    >>> LogitDecay()(nn.Flatten(), torch.ones(2, 3), torch.zeros(2)).total
    tensor(1.)
    """

    def prepare(self, model: nn.Module, feed: Feed) -> None:
        """Once, before the first step of every call of `fit`: look at the network and the training images."""

    def before_step(self, epoch: float) -> None:
        """Before every step, with the epochs that are done: 2.0 at the start of the third, 2.5 in its middle."""

    def seeing(self, indices: Tensor, view: int) -> None:
        """In a training with `views`, before every step: which images the next batch holds, and in which view."""

    @abstractmethod
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Loss:
        """Compute the loss of images `(n, c, h, w)` with labels `(n,)`."""

    def mixed(self, model: nn.Module, x: Tensor, labels: Sequence[Tensor], share: float) -> Loss:
        """In a training with `mixup`, in place of a call: the images are `share` of one and the rest of another.

        Every term is averaged over `labels`, of the one and of the other, with the same weights.
        """
        raise RecipeError(
            f"mixup needs an objective that averages over two labels, and {type(self).__name__} has no method `mixed`: "
            "leave mixup out, or use cross entropy or a distillation loss"
        )

    def after_step(self, model: nn.Module, optimizer: Optimizer) -> None:
        """After every step of the optimizer; may change the weights."""


HOOKS = tuple(name for name, member in vars(Objective).items() if callable(member) and not name.startswith("_"))
"""The optional methods of an `Objective`."""


class PlainObjective(Objective):
    """A loss function without hooks, as an objective."""

    def __init__(self, function: LossFunction) -> None:
        self._function = function

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Loss:
        """Call the function."""
        return self._function(model, x, y)


def as_objective(objective: Objective | LossFunction) -> Objective:
    """Return an objective unchanged; make one without hooks of a function (network, images, labels) → `Loss`.

    Raises:
        RecipeError: an object that has hooks but is no `Objective`: they would not be called.

    >>> as_objective(lambda model, x, y: Loss({"mean": model(x).mean()}, model(x))).__class__.__name__
    'PlainObjective'
    """
    if isinstance(objective, Objective):
        return objective
    found = [hook for hook in HOOKS if hasattr(objective, hook)]
    if found:
        name = type(objective).__name__
        raise RecipeError(f"{name} has a method `{found[0]}` but is no Objective: derive it from slimcnn.Objective")
    return PlainObjective(objective)


def class_scores(output: object, images: int) -> Tensor:
    """The network's output, if it is what a classifier's should be; `ModelError` otherwise.

    >>> import torch
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
