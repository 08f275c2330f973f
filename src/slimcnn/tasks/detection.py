"""Boxes around objects, with a class each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimcnn.distillation import Teacher
from slimcnn.distillation.terms import parts_of
from slimcnn.errors import ModelError, RecipeError
from slimcnn.measuring.metric import Metric
from slimcnn.modes import modes_restored
from slimcnn.objectives import Loss, Objective
from slimcnn.tasks.metrics import TorchMetric, torchmetric
from slimcnn.tasks.pictures import with_boxes
from slimcnn.tasks.task import Meter, Task, answer, first_pixels, tasks

if TYPE_CHECKING:
    from slimcnn.datasets import Dataset

FLAT = 0.01
"""Least variance that distances are measured in: that of constant outputs would blow up any difference."""

SURE = 0.5
"""Least score of a box that the report shows."""

HEADS = ("head", "rpn.head", "roi_heads.box_predictor")
"""Modules of torchvision's detectors whose outputs a student learns, where they have the shapes of the teacher's."""


@tasks.add("detection", source="torchvision.models.detection: ssdlite, retinanet, fasterrcnn, fcos")
class Detection(Task):
    """Boxes around objects, with a class each; judged by mAP@50.

    A network takes images and, in training mode, targets, and returns a dict of losses; in eval mode a dict of boxes,
    labels and scores for each image. Class 0 is the background, as in torchvision.
    """

    metric: ClassVar = Metric("mAP@50")
    draws: ClassVar = True
    loss_of_answers: ClassVar = False
    compares_features: ClassVar = False
    batch: ClassVar = 1  # detectors resize image by image, so that their operations depend on the batch

    def arguments(self, data: Dataset) -> dict[str, Any]:
        """Return the number of classes, with the background."""
        return {"num_classes": len(data.classes) + 1}

    def scores(self, output: Any, x: Tensor) -> Tensor:
        """Refuse an output without boxes; there are no rows to compare."""
        check_boxes(output, len(x))
        return x.new_zeros(len(x), 1)

    def loss(self, scores: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Raise an error: the network computes the loss itself, in training mode."""
        raise RecipeError("the loss of detection is computed by the network, in training mode")

    def hits(self, scores: Tensor, targets: Tensor, images: int) -> Tensor:
        """Return NaN: nothing is right or wrong in training mode."""
        return scores.new_full((), float("nan"))

    def loss_on(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Compute the sum of the network's losses, with batch norms in eval mode."""
        with _training_without_statistics(model):
            return sum_of(losses_of(model, x, y))

    def objective(self, label_smoothing: float = 0.0) -> Objective:
        """Return the sum of the losses that the network computes."""
        return DetectorLoss()

    def distilling(self, spec: str, networks: list[nn.Module] | Teacher, label_smoothing: float = 0.0) -> Objective:
        """Return the network's losses, plus distances of head outputs (kd) or of a layer's features (fitnet:layer=...).

        Raises:
            RecipeError: another loss.
        """
        teacher = networks if isinstance(networks, Teacher) else Teacher(networks)
        weights: dict[str, float] = {}
        layers: list[str] = []
        for factor, build, options in parts_of(spec):
            name = "labels" if build is None else build.__name__
            if name == "fitnet":
                layers.append(str(options.get("layer", "")))
            elif name not in ("labels", "kd"):
                raise RecipeError(
                    f"loss {spec!r}: {name} compares distributions over classes; detection has cross_entropy (the "
                    "network's own losses), kd (head outputs) and fitnet:layer=NAME (features)"
                )
            weights[name] = factor
        if "" in layers:
            raise RecipeError(f"loss {spec!r}: fitnet compares features: choose a layer, as in fitnet:layer=backbone")
        return DetectorLoss(weights, teacher.networks[0], tuple(layers))

    def drawn(self, pixels: Tensor, found: Any) -> Any:
        """Draw boxes, and those of an answer that are surer than 0.5."""
        sure = found["scores"] > SURE if "scores" in found else slice(None)
        return with_boxes(pixels, found["boxes"][sure], (found["labels"][sure] - 1).tolist())

    def target_of(self, y: Tensor) -> Any:
        """Return boxes and labels of an image."""
        return targets_of(y[None])[0]

    def answer_of(self, output: Any, x: Tensor) -> Any:
        """Return boxes, labels and scores of an image."""
        check_boxes(output, len(x))
        return output[0]

    def meter(self, classes: int) -> Meter:
        """Compute mAP at an intersection over union of 0.5."""
        return _mean_average_precision(self.metric, "map_50")

    def check(self, model: nn.Module, data: Dataset) -> None:
        """Raise `ModelError` unless the network returns boxes for images of the data."""
        x = data.normalization(first_pixels(data, 1))
        with modes_restored(model), torch.no_grad():
            model.eval()
            check_boxes(answer(model, x, data.name), len(x))


def _mean_average_precision(metric: Metric, key: str) -> Meter:
    found = torchmetric("detection.MeanAveragePrecision", backend="faster_coco_eval")
    found.warn_on_many_detections = False

    def arguments(output: Any, x: Tensor, y: Tensor) -> tuple[Any, ...]:
        check_boxes(output, len(x))
        return [{name: one[name] for name in ("boxes", "labels", "scores")} for one in output], targets_of(y)

    return TorchMetric(metric, found, arguments, 100.0, key)


def check_boxes(output: Any, images: int) -> None:
    """Raise `ModelError` unless an output has boxes, labels and scores for each image."""
    keys = {"boxes", "labels", "scores"}
    fits = isinstance(output, list | tuple) and len(output) == images
    if not fits or not all(isinstance(one, Mapping) and keys <= set(one) for one in output):
        shown = f"a tensor {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ModelError(
            f"the output for {images} images is {shown}; a detector returns a list with a dict of boxes, labels and "
            "scores for each image"
        )


def targets_of(y: Tensor) -> list[dict[str, Tensor]]:
    """Return boxes (n, k, 5) as torchvision takes them: a dict of boxes and labels for each image, from class 1.

    >>> targets_of(torch.tensor([[[0.0, 1, 2, 3, 4], [-1, 0, 0, 0, 0]]]))
    [{'boxes': tensor([[1., 2., 3., 4.]]), 'labels': tensor([1])}]
    """
    return [{"boxes": own[own[:, 0] >= 0, 1:], "labels": own[own[:, 0] >= 0, 0].long() + 1} for own in y]


def losses_of(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the losses that a detector computes in training mode; `ModelError` if it returns something else."""
    found = model(list(x), targets_of(y))
    if not isinstance(found, Mapping) or not all(isinstance(one, Tensor) for one in found.values()):
        raise ModelError(
            f"in training mode, the network returns a {type(found).__name__}; a detector returns a dict of losses for "
            "(images, targets)"
        )
    return dict(found)


def sum_of(losses: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of losses."""
    return torch.stack([one.float() for one in losses.values()]).sum()


class DetectorLoss(Objective):
    """The losses that a detector computes itself, plus distances to the head outputs and features of a teacher.

    Head outputs are compared by the mean squared error, in units of the teacher's variance.
    """

    def __init__(
        self, weights: Mapping[str, float] | None = None, teacher: nn.Module | None = None, layers: tuple[str, ...] = ()
    ) -> None:
        self._weights = dict(weights or {"labels": 1.0})
        self._teacher, self._layers = teacher, layers

    def __str__(self) -> str:
        return " + ".join(f"{weight:g} {name}" for name, weight in self._weights.items())

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Loss:
        """Compute the losses of a batch."""
        terms: dict[str, Tensor] = {}
        watched = [*(HEADS if "kd" in self._weights else ()), *self._layers]
        with _outputs(model, watched) as mine:
            found = losses_of(model, x, y)
        weight = self._weights.get("labels", 0.0)
        terms |= {name: weight * one.float() for name, one in found.items()} if weight else {}
        if self._teacher is not None:
            terms |= self._distances(mine, x)
        if not terms:
            raise RecipeError("the loss of detection has no term: add cross_entropy, the network's own losses")
        return Loss(terms, x.new_zeros(len(x), 1))

    def _distances(self, mine: Mapping[str, list[Tensor]], x: Tensor) -> dict[str, Tensor]:
        assert self._teacher is not None
        with torch.no_grad(), _outputs(self._teacher.to(x.device).eval(), list(mine)) as theirs:
            self._teacher(list(x))
        terms = {}
        heads = [name for name in mine if name not in self._layers]
        for name, layers in (("kd", heads), ("fitnet", list(self._layers))):
            pairs = [
                pair
                for layer in layers
                for pair in zip(mine[layer], theirs.get(layer, []), strict=False)
                if pair[0].shape == pair[1].shape and pair[0].is_floating_point()
            ]
            if name in self._weights:
                if not pairs:
                    raise ModelError(f"{name}: student and teacher have no outputs of equal shape at {layers}")
                terms[name] = self._weights[name] * torch.stack([_distance(*pair) for pair in pairs]).mean()
        return terms


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    teacher = teacher.detach().float()
    return F.mse_loss(student.float(), teacher) / teacher.var(correction=0).clamp(min=FLAT)


@contextmanager
def _outputs(model: nn.Module, layers: list[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Record the tensors that modules return; modules that the network does not have are left out."""
    from torch.utils._pytree import tree_leaves

    found: dict[str, list[Tensor]] = {}

    def recorder(layer: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(_: nn.Module, __: Any, output: Any) -> None:
            found[layer] = [one for one in tree_leaves(output) if isinstance(one, Tensor)]

        return record

    modules = {
        name.removeprefix("module.").removeprefix("_forward_module."): one for name, one in model.named_modules()
    }
    handles = [modules[layer].register_forward_hook(recorder(layer)) for layer in layers if layer in modules]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _training_without_statistics(model: nn.Module) -> Iterator[None]:
    """Put a network in training mode, except for its batch norms."""
    with modes_restored(model):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.Dropout):
                module.eval()
        yield
