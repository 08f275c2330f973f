"""Tasks whose rows of scores are no distributions over classes."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from slimcnn.distillation import Teacher
from slimcnn.distillation.terms import parts_of
from slimcnn.errors import RecipeError
from slimcnn.objectives import Objective, Seen, Term, Terms
from slimcnn.tasks.task import Task


class Soft(Task):
    """A task with a distillation loss of its own, which takes the place of `kd`."""

    @abstractmethod
    def soft_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Compute the distance between the scores of student and teacher, a mean over the images."""

    def distilling(self, spec: str, networks: list[nn.Module] | Teacher, label_smoothing: float = 0.0) -> Objective:
        """Return the objective with teachers; of the losses that compare scores, only `kd`."""
        teacher = networks if isinstance(networks, Teacher) else Teacher(networks)
        found = Terms()
        for factor, build, options in parts_of(spec):
            if build is None:
                found = found + factor * self.labeled(label_smoothing)
            elif build.__name__ == "kd":
                found = found + factor * self._soft(teacher, float(options.get("temperature", 1.0)))
            elif build.__name__ in ("features", "fitnet", "attention"):
                found = found + factor * build(teacher, **options)
            else:
                raise RecipeError(
                    f"loss {spec!r}: {build.__name__} compares distributions over classes, and this task has none; use "
                    "kd or features, or fitnet or attention with a layer"
                )
        found.reading(self.scores)
        return found

    def _soft(self, teacher: Teacher, temperature: float) -> Terms:
        def value(seen: Seen) -> Tensor:
            return self.soft_loss(seen.logits, seen.answers[teacher], temperature)

        return Terms(Term("kd", value, teacher=teacher))
