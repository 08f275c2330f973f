"""Teachers: trained networks whose logits and features a student learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from slimcnn.distillation.answers import Answers, digest_of
from slimcnn.errors import ModelError, RecipeError
from slimcnn.objectives import InputOf, ReadScores, Seen, Term, Terms, read_classes, record_into

if TYPE_CHECKING:
    from slimcnn.distillation.features import LastFeatures

ONLY_LOGITS = "a teacher's cache stores logits only: leave it out, or choose losses that compare answers, such as kd"


class Teacher:
    """One or several trained networks; the logits of several are averaged.

    The networks are copied, in eval mode and without gradients; the caller's networks are unchanged. At the first batch
    the copies move to the student's device and memory format. They run in the student's precision.

    `compared` says which features of student and first network belong together (`last_features`), for the loss
    `features`.

    >>> teacher = Teacher(nn.Flatten())
    >>> teacher(nn.Flatten(), torch.ones(2, 3, 1, 1)).shape
    torch.Size([2, 3])
    """

    def __init__(self, networks: nn.Module | Iterable[nn.Module], compared: LastFeatures | None = None) -> None:
        given = [networks] if isinstance(networks, nn.Module) else list(networks)
        if not given:
            raise ModelError("there is no teacher: give at least one network")
        self.networks = [deepcopy(network).eval().requires_grad_(False) for network in given]
        self.compared = compared
        self.features: dict[str | InputOf, Tensor] = {}
        """Outputs, or inputs, of the watched layers of the first network for the last batch."""
        self._recorded: dict[str | InputOf, Tensor] = {}
        self._placed_on: torch.device | None = None
        self._watches = False
        self._answers: Answers | None = None
        self._batch: tuple[Tensor, int] | None = None
        self._scores: ReadScores = read_classes

    def reading(self, scores: ReadScores) -> None:
        """Use this function to read scores from a network's output; default: a classifier's."""
        self._scores = scores

    def cached(self, path: Path | str, images: int, views: int) -> Teacher:
        """Cache logits in a file, for `images` training images and `views` views of each (`Training.views`).

        Cached logits are not computed again, in later epochs or after an interruption. A file belongs to one teacher,
        one dataset and one seed.

        Raises:
            RunError: the file holds the logits of another teacher, or of another number of images or views.
            RecipeError: a loss compares features of this teacher, which are not stored.
        """
        if self._watches:
            raise RecipeError(ONLY_LOGITS)
        self._answers = Answers(Path(path), images, views, digest_of(self.networks))
        return self

    def seeing(self, indices: Tensor, view: int) -> None:
        """Set the indices and the view of the next batch's training images."""
        self._batch = (indices, view)

    def __call__(self, student: nn.Module, x: Tensor) -> Tensor:
        """Return the logits (n, classes) of a batch."""
        batch, self._batch = self._batch, None
        kept = self._answers if batch is not None else None
        if kept is not None and batch is not None:
            known = kept.read(batch[1], batch[0])
            if known is not None:
                return known.to(x.device)
        answer = self._answer(student, x)
        if kept is not None and batch is not None:
            kept.write(batch[1], batch[0], answer)
        return answer

    def _answer(self, student: nn.Module, x: Tensor) -> Tensor:
        if self._placed_on != x.device:
            for network in self.networks:
                network.to(x.device, memory_format=_memory_format(student))  # type: ignore[call-overload]
            self._placed_on = x.device
        with torch.inference_mode():
            answers = [self._scores(network(x), x).float() for network in self.networks]
            answer = answers[0] if len(answers) == 1 else torch.stack(answers).mean(dim=0)
        # Clone: tensors created in inference mode cannot be part of a differentiated loss.
        self.features = {layer: found.clone() for layer, found in self._recorded.items()}
        return answer.clone()

    def watch(self, layers: Iterable[str | InputOf]) -> None:
        """Record the outputs, or inputs, of these layers of the first network for every batch.

        Raises:
            RecipeError: the teacher's logits are cached, so that it does not run.
        """
        if self._answers is not None:
            raise RecipeError(ONLY_LOGITS)
        for layer in layers:
            self._watches = True
            record_into(self._recorded, self.networks[0], layer)


def teacher_of(teacher: Teacher | nn.Module | Iterable[nn.Module]) -> Teacher:
    """Return the teacher itself, or wrap one or several networks in a `Teacher`."""
    return teacher if isinstance(teacher, Teacher) else Teacher(teacher)


def comparing(
    name: str, loss: Callable[[Tensor, Tensor], Tensor], teacher: Teacher | nn.Module, layer: str, teacher_layer: str
) -> Terms:
    """Build a term that compares the output of a student layer with that of a teacher layer."""
    if not layer:
        raise RecipeError(f"{name} compares features: choose a layer, as in {name}:layer=layer3")
    taught, theirs = teacher_of(teacher), teacher_layer or layer
    taught.watch([theirs])

    def value(seen: Seen) -> Tensor:
        return loss(seen.features[layer], taught.features[theirs])

    return Terms(Term(name, value, teacher=taught, layers=(layer,)))


def _memory_format(model: nn.Module) -> torch.memory_format:
    # Check the filters, not the images: images with one channel are contiguous in both formats.
    for weight in model.parameters():
        if weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous():
            return torch.channels_last
    return torch.contiguous_format
