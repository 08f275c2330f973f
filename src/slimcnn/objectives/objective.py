"""The interface of an objective: the loss of one batch, and optional hooks that `fit` calls."""

# ruff: noqa: B027  (hooks are optional: they do nothing unless a class overrides them)

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

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
    """The network's output `(n, classes)`, from which the training accuracy is computed."""
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    """For every term, the L1 norm of its gradient with respect to a sample's logits, mean over the batch."""

    @property
    def total(self) -> Tensor:
        """The sum of the terms, a scalar to differentiate."""
        first, *others = self.terms.values()
        for term in others:
            first = first + term
        return first


LossFunction = Callable[[nn.Module, Tensor, Tensor], Loss]
"""(network, images `(n, c, h, w)`, labels `(n,)`) → the loss of this batch."""

ReadScores = Callable[[Any, Tensor], Tensor]
"""(the network's output, the images) → rows of scores (rows, classes): one for an image, a pixel ..."""

Feed = Callable[[], Iterator[tuple[Tensor, Tensor]]]
"""Each call returns all training images in batches (x, y), normalized and not augmented."""


class Objective(ABC):
    """The loss of one batch; every term is a mean over its images.

    `fit` calls the hooks in the order below. An objective that wraps another one must forward every hook to it.

    >>> import torch
    >>> class LogitDecay(Objective):
    ...     def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Loss:
    ...         logits = model(x)
    ...         return Loss({"logits": logits.square().mean()}, logits)
    >>> LogitDecay()(nn.Flatten(), torch.ones(2, 3), torch.zeros(2)).total
    tensor(1.)
    """

    judged_by_metric: ClassVar[bool] = True
    """Whether the validation metric decides which epoch is the best; if not, `fit` always keeps the last epoch."""

    def reading(self, scores: ReadScores) -> None:
        """Called once before `prepare` with the task's function that reads scores from a network's output."""

    def prepare(self, model: nn.Module, feed: Feed) -> None:
        """Prepare with the network and the training images; called once by every `fit`, before the first step."""

    def before_step(self, epoch: float) -> None:
        """Called before every step with the number of finished epochs: 2.0 at the start of the third, 2.5 mid-epoch."""

    def seeing(self, indices: Tensor, view: int) -> None:
        """Called before every step of a training with `views`, with the indices and the view of the next batch."""

    @abstractmethod
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Loss:
        """Compute the loss of images `(n, c, h, w)` with labels `(n,)`."""

    def mixed(self, model: nn.Module, x: Tensor, labels: Sequence[Tensor], share: float) -> Loss:
        """Compute the loss of images mixed from two: `share` of one and the rest of another; for mixup, cutmix.

        Every term is averaged over the two `labels` with the same weights.
        """
        raise RecipeError(
            f"mixup and cutmix need an objective for two labels, and {type(self).__name__} has no method `mixed`: "
            "leave them out, or use cross entropy or a distillation loss"
        )

    def after_step(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Called after every step of the optimizer; may change the weights."""


HOOKS = tuple(name for name, member in vars(Objective).items() if callable(member) and not name.startswith("_"))
"""The optional methods of an `Objective`."""


class PlainObjective(Objective):
    """An objective without hooks, from a loss function."""

    def __init__(self, function: LossFunction) -> None:
        self._function = function

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Loss:
        """Call the function."""
        return self._function(model, x, y)


def as_objective(objective: Objective | LossFunction) -> Objective:
    """Return an objective unchanged; wrap a function (network, images, labels) → `Loss` as an objective without hooks.

    Raises:
        RecipeError: an object has hooks but is not an `Objective`, so they would not be called.

    >>> as_objective(lambda model, x, y: Loss({"mean": model(x).mean()}, model(x))).__class__.__name__
    'PlainObjective'
    """
    if isinstance(objective, Objective):
        return objective
    found = [hook for hook in HOOKS if hasattr(objective, hook)]
    if found:
        name = type(objective).__name__
        raise RecipeError(f"{name} has a method `{found[0]}` but is not an Objective: subclass slimcnn.Objective")
    return PlainObjective(objective)


def read_classes(output: Any, x: Tensor) -> Tensor:
    """Read a classifier's output for images x; see `class_scores`."""
    return class_scores(output, len(x))


def class_scores(output: object, images: int) -> Tensor:
    """Return the network's output if it has the shape of a classifier's output; `ModelError` otherwise.

    >>> import torch
    >>> class_scores(torch.zeros(2, 10), images=2).shape
    torch.Size([2, 10])
    >>> class_scores(torch.zeros(2, 10, 4), images=2)
    Traceback (most recent call last):
    slimcnn.errors.ModelError: the output for 2 images is a tensor (2, 10, 4); a classifier returns (2, classes)
    """
    if not isinstance(output, Tensor):
        found = f"a {type(output).__name__}"
    elif output.dim() != 2 or len(output) != images:
        found = f"a tensor {tuple(output.shape)}"
    else:
        return output
    raise ModelError(f"the output for {images} images is {found}; a classifier returns ({images}, classes)")
