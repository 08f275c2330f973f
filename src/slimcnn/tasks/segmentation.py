"""One class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from slimcnn.errors import DataError, ModelError
from slimcnn.measuring.metric import Metric
from slimcnn.objectives import Seen, Term, Terms
from slimcnn.tasks.metrics import TorchMetric, torchmetric
from slimcnn.tasks.pictures import with_mask
from slimcnn.tasks.task import Meter, Task, tasks

VOID = 255
"""The class of pixels that are not counted, in a mask."""

NOT_COUNTED = -100
"""The same among targets, as PyTorch's losses expect it."""

AUXILIARY = 0.4
"""Weight of the loss of each auxiliary head (Zhao et al. 2017, arXiv 1612.01105, section 4.2)."""


@tasks.add("segmentation", source="Long, Shelhamer, Darrell 2015, arXiv 1411.4038")
class Segmentation(Task):
    """One class for every pixel; judged by mean IoU."""

    metric: ClassVar = Metric("mean IoU")
    draws: ClassVar = True

    def scores(self, output: Any, x: Tensor) -> Tensor:
        """Return the logits (pixels, classes) at the size of the images."""
        return rows(main_output(output, x), x)

    def targets(self, y: Tensor) -> Tensor:
        """Return the classes (pixels,); -100 where a pixel is not counted."""
        flat = y.reshape(-1).long()
        return torch.where(flat == VOID, NOT_COUNTED, flat)

    def loss(self, scores: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Compute the cross entropy, a mean over the pixels that count."""
        total = F.cross_entropy(scores, targets, label_smoothing=label_smoothing, reduction="sum")
        return total / (targets != NOT_COUNTED).sum().clamp(min=1)

    def labeled(self, label_smoothing: float = 0.0) -> Terms:
        """Return cross entropy, with 0.4 times that of each auxiliary head that the network has in training mode."""

        def value(seen: Seen) -> Tensor:
            targets = self.targets(seen.y)
            total = self.loss(seen.logits.float(), targets, label_smoothing)
            for extra in auxiliary_outputs(seen.output):
                total = total + AUXILIARY * self.loss(rows(extra, seen.x).float(), targets, label_smoothing)
            return total

        return Terms(Term(self.loss_name, value))

    def hits(self, scores: Tensor, targets: Tensor, images: int) -> Tensor:
        """Return the share of right pixels, times the number of images."""
        counted = (targets != NOT_COUNTED).sum().clamp(min=1)
        return (scores.argmax(1) == targets).sum() / counted * images

    def drawn(self, pixels: Tensor, found: Any) -> Any:
        """Color an image by a mask (h, w)."""
        return with_mask(pixels, found)

    def answer_of(self, output: Any, x: Tensor) -> Any:
        """Return the class with the highest score for every pixel, (h, w)."""
        return self.scores(output, x).argmax(1).view(x.shape[2:])

    def as_targets(self, output: Any, x: Tensor) -> Tensor:
        """Return masks of the classes with the highest score."""
        return self.scores(output, x).argmax(1).view(len(x), *x.shape[2:]).to(torch.uint8)

    def meter(self, classes: int) -> Meter:
        """Compute the mean over classes of intersection over union, each summed over all images."""
        # On the CPU, counting is faster than for a GPU to wait for it.
        options = {"average": "macro", "ignore_index": NOT_COUNTED, "validate_args": False}
        found = torchmetric("classification.MulticlassJaccardIndex", classes, **options)

        def update(output: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return self.scores(output, x)[:, :classes].argmax(1), self.targets(y)

        return TorchMetric(self.metric, found, update, 100.0)


def main_output(output: Any, x: Tensor) -> Tensor:
    """Return the logits (n, classes, h, w) of a segmentation network: a tensor, the first of several, or "out".

    >>> main_output({"out": torch.zeros(1, 5, 4, 4), "aux": torch.zeros(1, 5, 4, 4)}, torch.zeros(1, 3, 4, 4)).shape
    torch.Size([1, 5, 4, 4])
    """
    found = output
    if isinstance(output, Mapping):
        found = next((output[name] for name in ("out", "logits") if name in output), None)
    elif isinstance(output, tuple | list) and output:
        found = output[0]
    elif hasattr(output, "logits"):
        found = output.logits
    if not isinstance(found, Tensor) or found.dim() != 4 or len(found) != len(x):
        shown = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(output).__name__}"
        raise ModelError(
            f"the output for {len(x)} images is {shown}; a segmentation network returns ({len(x)}, classes, h, w), or "
            'a dict with it as "out"'
        )
    return found


def auxiliary_outputs(output: Any) -> list[Tensor]:
    """Return the outputs of auxiliary heads: all further maps of logits in a dict, tuple or list."""
    if isinstance(output, Mapping):
        return [one for name, one in output.items() if name.startswith("aux") and isinstance(one, Tensor)]
    if isinstance(output, tuple | list):
        return [one for one in output[1:] if isinstance(one, Tensor) and one.dim() == 4]
    return []


def rows(logits: Tensor, x: Tensor) -> Tensor:
    """Return logits (n, classes, h, w) as one row for each pixel of the images x, interpolated to their size.

    >>> rows(torch.zeros(2, 5, 2, 2), torch.zeros(2, 3, 4, 4)).shape
    torch.Size([32, 5])
    """
    if logits.shape[2:] != x.shape[2:]:
        logits = F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=False)
    return logits.permute(0, 2, 3, 1).flatten(0, 2)


def check_masks(masks: Tensor, shape: tuple[int, int], classes: int, names: list[str]) -> None:
    """Raise `DataError` if masks (n, h, w) do not fit images of this height and width, or have unknown classes.

    >>> check_masks(torch.full((1, 2, 2), 7), (2, 2), 3, ["street.png"])
    Traceback (most recent call last):
    slimcnn.errors.DataError: street.png has the class number 7, but there are 3 classes (0 to 2; 255: not counted)
    """
    if tuple(masks.shape[1:]) != shape:
        raise DataError(f"masks are {tuple(masks.shape[1:])} pixels, images {shape}: a mask has the size of its image")
    wrong = (masks >= classes) & (masks != VOID)
    if bool(wrong.any()):
        where = int(wrong.flatten(1).any(1).nonzero()[0, 0])
        number = int(masks[where][wrong[where]][0])
        raise DataError(
            f"{names[where]} has the class number {number}, but there are {classes} classes (0 to {classes - 1}; "
            f"{VOID}: not counted)"
        )
