"""Gradients of several batches, added up for one step of the optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from slimcnn.datasets.given import GivenBatches

if TYPE_CHECKING:
    from slimcnn.training.run import TrainingRun


@dataclass(frozen=True)
class Together:
    """The batches of one step of the optimizer, and where a batch is among them."""

    number: int
    """The number of the optimizer's step in the epoch, from 0."""
    begins: bool
    """Whether the batch is the first of them."""
    ends: bool
    """Whether the batch is the last of them."""
    factor: float | None
    """The factor of a batch's mean loss; None: in proportion to its images."""
    images: int
    """The number of images of all of them, over all processes."""
    world: int

    @classmethod
    def of(cls, run: TrainingRun, step: int) -> Together:
        """Return the place of batch `step` of the epoch."""
        k, size, world = run.training.accumulate, run.training.batch_size, run.fabric.world_size
        first = step - step % k
        last = min(first + k, run.steps)
        images, factor = min(size * last, len(run.dataset.train)) - size * first, None
        if isinstance(run.dataset.train, GivenBatches):
            factor = 1 / (last - first)  # how many images the other batches have is not known yet
        elif k == 1 and world == 1:
            factor = 1.0
        return cls(step // k, step == first, step == last - 1, factor, images, world)

    def weighted(self, loss: Tensor, images: int) -> Tensor:
        """Weight the mean loss of a batch, so that all of them add up to the mean over their images.

        DDP averages the gradients of all processes, whose shares of the last batch may differ by one image.
        """
        if self.factor == 1.0:
            return loss
        return loss * (images * self.world / self.images if self.factor is None else self.factor)
