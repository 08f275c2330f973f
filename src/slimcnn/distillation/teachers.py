"""Teachers: trained networks whose answers a student learns from, at as little cost as can be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from slimcnn.distillation.answers import Answers, digest_of
from slimcnn.errors import ModelError, RecipeError
from slimcnn.objectives import Seen, Term, Terms, class_scores, layer_named


class Teacher:
    """One or several trained networks; several answer with the mean of their logits.

    They are copied, in eval mode and without gradients: the caller's are never touched. The copies follow the student
    to its device and memory format at the first batch, and run in its precision.

    >>> teacher = Teacher(nn.Flatten())
    >>> teacher(nn.Flatten(), torch.ones(2, 3, 1, 1)).shape
    torch.Size([2, 3])
    """

    def __init__(self, networks: nn.Module | Iterable[nn.Module]) -> None:
        given = [networks] if isinstance(networks, nn.Module) else list(networks)
        if not given:
            raise ModelError("there is no teacher to learn from: give at least one network")
        self.networks = [deepcopy(network).eval().requires_grad_(False) for network in given]
        self.features: dict[str, Tensor] = {}
        """What the first network's layers that were asked for made of the last batch."""
        self._placed_on: torch.device | None = None
        self._watches = False
        self._answers: Answers | None = None
        self._batch: tuple[Tensor, int] | None = None

    def cached(self, path: Path | str, images: int, views: int) -> Teacher:
        """Keep answers in a file: for so many training images, and so many views of each (`Training.views`).

        What is there is not computed again, in later epochs or after an interruption. A file belongs to one teacher,
        one dataset and one seed.

        Raises:
            RunError: the file holds the answers of another teacher, or of other numbers of images or views.
        """
        self._answers = Answers(Path(path), images, views, digest_of(self.networks))
        return self

    def seeing(self, indices: Tensor, view: int) -> None:
        """Take notice of which training images the next batch is, and in which view."""
        self._batch = (indices, view)

    def __call__(self, student: nn.Module, x: Tensor) -> Tensor:
        """Give the logits (n, classes) of a batch."""
        batch, self._batch = self._batch, None
        kept = self._answers if batch is not None and not self._watches else None
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
            answers = [class_scores(network(x), len(x)).float() for network in self.networks]
            answer = answers[0] if len(answers) == 1 else torch.stack(answers).mean(dim=0)
        # Copied: what was made in inference mode cannot be part of a loss that is differentiated.
        self.features = {name: made.clone() for name, made in self.features.items()}
        return answer.clone()

    def watch(self, layers: Iterable[str]) -> None:
        """Keep what these layers of the first network make of every batch."""
        for layer in layers:
            self._watches = True

            def note(_: nn.Module, __: object, made: Tensor, name: str = layer) -> None:
                self.features[name] = made

            layer_named(self.networks[0], layer).register_forward_hook(note)


def teacher_of(teacher: Teacher | nn.Module | Iterable[nn.Module]) -> Teacher:
    """Take a teacher as it is, or make one of a network or several."""
    return teacher if isinstance(teacher, Teacher) else Teacher(teacher)


def comparing(
    name: str, loss: Callable[[Tensor, Tensor], Tensor], teacher: Teacher | nn.Module, layer: str, teacher_layer: str
) -> Terms:
    """Build a term that compares what a layer of the student and one of the teacher make."""
    if not layer:
        raise RecipeError(f"{name} compares features: say which layer, as {name}:layer=layer3")
    taught, theirs = teacher_of(teacher), teacher_layer or layer
    taught.watch([theirs])

    def value(seen: Seen) -> Tensor:
        return loss(seen.features[layer], taught.features[theirs])

    return Terms(Term(name, value, teacher=taught, layers=(layer,)))


def _memory_format(model: nn.Module) -> torch.memory_format:
    # Seen on the filters, not the images: an image with one channel is both formats at once.
    for weight in model.parameters():
        if weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous():
            return torch.channels_last
    return torch.contiguous_format
