"""The interface of tasks, and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from slimcnn.distillation import Teacher, objective_named
from slimcnn.errors import DataError, ModelError, RecipeError
from slimcnn.importing import import_module
from slimcnn.measuring.metric import Metric
from slimcnn.modes import modes_restored
from slimcnn.objectives import Objective, Seen, Term, Terms
from slimcnn.registry import Registry

if TYPE_CHECKING:
    from slimcnn.datasets import Dataset


class Meter(Protocol):
    """Collects the answers of a network on batches, and computes the metric."""

    def update(self, output: Any, x: Tensor, y: Tensor) -> None:
        """Add the network's output for a batch."""

    def value(self) -> float:
        """Compute the metric, in its unit, over all processes."""


class Task(ABC):
    """What a network is for. Subclass it, register it with `@tasks.add(name, source=...)`, in one file.

    Images are tensors (n, c, h, w); targets are one tensor whose first axis is the image: classes (n,), masks
    (n, h, w), boxes (n, k, 5).
    """

    metric: ClassVar[Metric]
    batch: ClassVar[int] = 16
    """Images in a batch outside training."""

    def arguments(self, data: Dataset) -> dict[str, Any]:
        """Return constructor arguments for a network that fits the data."""
        return {"num_classes": len(data.classes), "in_channels": data.shape[0]}

    @abstractmethod
    def scores(self, output: Any, x: Tensor) -> Tensor:
        """Return the rows of scores (rows, classes) that losses and teachers compare; `ModelError` if there are none.

        A classifier has one row for an image, a segmentation network one for a pixel.
        """

    def targets(self, y: Tensor) -> Tensor:
        """Return the targets of the rows of scores."""
        return y

    @abstractmethod
    def loss(self, scores: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Compute the loss against the labels, a mean over the images."""

    def hits(self, scores: Tensor, targets: Tensor, images: int) -> Tensor:
        """Return the share of right rows, times the number of images: the training accuracy is computed from it."""
        return (scores.argmax(1) == targets).float().mean() * images

    def loss_on(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Compute the loss of a network on a batch, for criteria that use its gradient."""
        return self.loss(self.scores(model(x), x).float(), self.targets(y))

    draws: ClassVar[bool] = False
    """Whether `drawn` shows targets and answers on images, for the report."""

    def drawn(self, pixels: Tensor, found: Any) -> Any:
        """Draw a target or an answer onto an image (c, h, w), uint8; return (h, w, 3), uint8, of NumPy."""
        raise NotImplementedError(f"{type(self).__name__} draws nothing")

    def target_of(self, y: Tensor) -> Any:
        """Return the target of one image as `drawn` takes it."""
        return y

    def answer_of(self, output: Any, x: Tensor) -> Any:
        """Return the answer for one image, x (1, c, h, w), as `drawn` takes it."""
        return output

    def as_targets(self, output: Any, x: Tensor) -> Tensor | None:
        """Return a network's answers for a batch as targets, from which another network can learn; None: impossible."""
        return None

    @abstractmethod
    def meter(self, classes: int) -> Meter:
        """Return an empty meter for the metric."""

    loss_name: ClassVar[str] = "cross_entropy"
    loss_of_answers: ClassVar[bool] = True
    """Whether `loss` can be computed from a network's answers in eval mode."""
    compares_features: ClassVar[bool] = True
    """Whether `distilling` knows the loss `features`."""

    def labeled(self, label_smoothing: float = 0.0) -> Terms:
        """Return the objective against the labels."""

        def value(seen: Seen) -> Tensor:
            return self.loss(seen.logits.float(), self.targets(seen.y), label_smoothing)

        return Terms(Term(self.loss_name, value))

    def objective(self, label_smoothing: float = 0.0) -> Objective:
        """Return the training objective."""
        found = self.labeled(label_smoothing)
        found.reading(self.scores)
        return found

    def distilling(self, spec: str, networks: list[nn.Module] | Teacher, label_smoothing: float = 0.0) -> Objective:
        """Return the objective with teachers; see `slimcnn.distillation.objective_named`."""
        teacher = networks if isinstance(networks, Teacher) else Teacher(networks)
        found = objective_named(spec, teacher, label_smoothing, self.labeled)
        found.reading(self.scores)
        return found

    def check(self, model: nn.Module, data: Dataset) -> None:
        """Raise `ModelError` unless the network's output fits the task and the data."""
        x = data.normalization(first_pixels(data, 2))
        with modes_restored(model), torch.no_grad():
            model.eval()
            output = answer(model, x, data.name)
        found = self.scores(output, x)
        if found.shape[1] < len(data.classes):
            raise ModelError(
                f"the network has {found.shape[1]} outputs, but {data.name} has {len(data.classes)} classes: build it "
                f"with {len(data.classes)} classes"
            )


def first_pixels(data: Dataset, n: int) -> Tensor:
    """Return the pixels of the first validation images, (n, c, h, w), uint8."""
    return data.validation.take(torch.arange(min(n, len(data.validation)))).in_memory().pixels


def answer(model: nn.Module, x: Tensor, images_of: str = "") -> Any:
    """Run a network on images; `ModelError` if it does not accept them."""
    try:
        return model(x)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        where = f" of {images_of}" if images_of else ""
        raise ModelError(f"the network does not accept images {tuple(x.shape)}{where}: {reason}") from error


tasks: Registry[Callable[[], Task]] = Registry("task", home="slimcnn.tasks")
"""All tasks: those in the folder slimcnn/tasks, and those of plugins."""


def task_named(name: str) -> Task:
    """Return a task by its name, or the user's own: `package.module:Task`.

    Raises:
        UnknownName: there is no such task; RecipeError: the user's task cannot be imported, or is none.

    >>> task_named("segmentation").metric.name
    'mean IoU'
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        return tasks[name].value()
    found = getattr(import_module(module, f"task {name!r}", RecipeError), attribute, None)
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise RecipeError(
            f"task {name!r}: {attribute} of {module} is {found!r:.80}; expected a subclass of slimcnn.Task"
        )
    return found()


def task_of(data: Dataset) -> Task:
    """Return the task of a dataset."""
    return task_named(data.task)


def finite(metric: Metric, value: float) -> float:
    """Return a metric's value; `DataError` if it is not a number: then no image has what it counts."""
    if value != value:
        raise DataError(
            f"{metric.name} is not a number: no image has anything that it counts; check the targets of these images"
        )
    return value
