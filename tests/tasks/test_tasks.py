"""What every task promises, and what each refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from tiny_tasks import HEIGHT, WIDTH, dataset, network, sure_detector
from torch import nn

import slimcnn
from slimcnn.datasets import Dataset
from slimcnn.errors import DataError, ModelError, RecipeError, SlimcnnError, TrainingDiverged, UnknownName
from slimcnn.graph.answers import locked_outputs
from slimcnn.objectives import cross_entropy
from slimcnn.pruning import verify
from slimcnn.tasks import Metric, task_named, task_of, tasks
from slimcnn.tasks.classification import Classification
from slimcnn.training import Training, evaluate, fit, judge

FIXED: dict[str, Any] = {"layout": "nchw", "precision": "32", "batch_size": 8}
NAMES = [entry.name for entry in tasks]


def test_the_tasks_are_found_by_scanning_their_folder() -> None:
    assert {"classification", "segmentation", "detection", "multilabel", "regression"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_training_improves_the_metric_of_every_task(name: str) -> None:
    data, model = dataset(name), network(name)
    before = judge(model, data.validation, data).score
    training = Training(epochs=2 if name == "detection" else 4, optimizer="adamw", learning_rate=0.01, **FIXED)
    epochs = list(fit(model, data, training=training))
    assert task_of(data).metric.gain(before, epochs[-1].kept_metric) >= 0
    assert epochs[-1].loss < epochs[0].loss
    assert judge(model, data.validation, data).score == pytest.approx(epochs[-1].kept_metric)


def test_classification_as_a_task_trains_to_the_same_bits_as_cross_entropy() -> None:
    data, found = dataset("classification"), []
    for objective in (None, cross_entropy()):
        model = network("classification")
        list(fit(model, data, training=Training(epochs=2, **FIXED), objective=objective))
        found.append(model.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert judge(model, data.test, data).score == evaluate(model, data.test, data.normalization).top1


@pytest.mark.parametrize("name", [name for name in NAMES if name != "detection"])
def test_a_network_for_another_task_is_refused_and_the_message_says_what_was_expected(name: str) -> None:
    data = dataset(name)
    wrong = network("classification" if name == "segmentation" else "segmentation")
    with pytest.raises(ModelError, match="the output for 2 images is"):
        task_of(data).check(wrong, data)


def test_a_classifier_is_refused_as_a_detector() -> None:
    data = dataset("detection")
    with pytest.raises(ModelError, match="a detector returns a list with a dict of boxes, labels and scores"):
        task_of(data).check(network("classification"), data)


def test_too_few_outputs_for_the_classes_are_refused() -> None:
    data = replace(dataset("segmentation"), classes=("a", "b", "c", "d"))
    with pytest.raises(ModelError, match="the network has 3 outputs, but squares has 4 classes"):
        task_of(data).check(network("segmentation"), data)


def test_a_metric_that_is_not_a_number_is_refused() -> None:
    data = dataset("detection")
    nothing = replace(data.test, labels=torch.full_like(data.test.labels, -1.0))
    with pytest.raises(DataError, match="mAP@50 is not a number"):
        judge(network("detection"), nothing, data)


def test_scores_that_are_not_finite_are_refused() -> None:
    data, model = dataset("segmentation"), network("segmentation")
    with torch.no_grad():
        model.head.bias.fill_(float("nan"))  # type: ignore[union-attr]
    with pytest.raises(ModelError, match="not finite"):
        judge(model, data.test, data)


def test_a_loss_that_is_not_finite_stops_the_training_and_names_its_term() -> None:
    class Exploding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network("segmentation")

        def forward(self, x: torch.Tensor) -> Any:
            found = self.inner(x)
            return {name: one / 0 if self.training else one for name, one in found.items()}

    with pytest.raises(TrainingDiverged, match="'cross_entropy' is nan"):
        list(fit(Exploding(), dataset("segmentation"), training=Training(epochs=1, **FIXED)))


def test_mixup_is_refused_where_labels_are_no_classes_of_images() -> None:
    with pytest.raises(RecipeError, match="mixup mixes the classes of images, and the data is for segmentation"):
        fit(network("segmentation"), dataset("segmentation"), training=Training(augmentation="mixup"))


class Halved(Classification):
    """Top-1, halved."""

    metric: ClassVar = Metric("half top-1")


def test_a_task_of_the_user_is_named_by_its_module() -> None:
    name = f"{__name__}:Halved"
    data = replace(dataset("classification"), task=name)
    assert task_named(name).metric.name == "half top-1"
    assert judge(network("classification"), data.test, data).n == 12


@pytest.mark.parametrize(("name", "error"), [
    ("segmentatoin", UnknownName), ("no_such_module:Task", RecipeError), (f"{__name__}:dataset", RecipeError),
])  # fmt: skip
def test_a_task_that_does_not_exist_is_refused_in_one_line(name: str, error: type[SlimcnnError]) -> None:
    with pytest.raises(error) as caught:
        task_named(name)
    assert "\n" not in str(caught.value)


def test_labels_of_another_shape_than_one_class_need_a_task() -> None:
    data = dataset("segmentation")
    with pytest.raises(DataError, match="name the task"):
        Dataset("squares", data.classes, data.train, data.validation, data.test, data.normalization, data.augmentation)


def test_pixels_that_are_not_counted_change_neither_loss_nor_metric() -> None:
    data, task = dataset("segmentation"), task_named("segmentation")
    scores = torch.randn(data.test.labels.numel(), 3)
    targets = task.targets(data.test.labels)
    changed = torch.where((targets < 0)[:, None], 100.0, scores)
    assert torch.equal(task.loss(scores, targets), task.loss(changed, targets))


def test_mean_iou_is_that_of_the_counts_over_all_images() -> None:
    task = task_named("segmentation")
    y = torch.tensor([[[0, 0], [1, 255]], [[1, 1], [1, 1]]], dtype=torch.uint8)
    logits = torch.zeros(2, 2, 2, 2)
    logits[:, 1] = 1.0  # class 1 everywhere
    meter = task.meter(2)
    meter.update(logits, torch.zeros(2, 3, 2, 2), y)
    assert meter.value() == pytest.approx(100 * (0 + 5 / 7) / 2)


def test_map_is_100_for_the_boxes_themselves_and_0_for_others() -> None:
    y = dataset("detection").test.labels
    found = [
        {"boxes": own[:, 1:], "labels": own[:, 0].long() + 1, "scores": torch.ones(len(own))} for own in y
    ]  # fmt: skip
    for shift, expected in ((0.0, 100.0), (9.0, 0.0)):
        meter = task_named("detection").meter(2)
        meter.update([one | {"boxes": one["boxes"] + shift} for one in found], torch.zeros(len(y), 3, 4, 4), y)
        assert meter.value() == pytest.approx(expected)


def test_slimcnn_list_shows_the_tasks() -> None:
    from slimcnn.views import names

    assert {one["name"] for one in names("tasks").data["tasks"]} == set(NAMES)


def test_the_public_names_have_a_task() -> None:
    assert isinstance(task_named("regression"), slimcnn.Task)


def test_a_head_whose_channels_are_locked_for_several_reasons_is_compared() -> None:
    model, x = network("detection").eval(), torch.rand(1, 3, HEIGHT, WIDTH)
    graph = slimcnn.trace(model, x)
    (one,) = [lock for lock in graph.locked if "bbox_reg" in lock.layer]
    half = replace(one, channels=one.channels // 2)
    parts = (half, replace(half, reason="another"))
    graph = replace(graph, locked=(*(lock for lock in graph.locked if lock is not one), *parts))
    with locked_outputs(model, graph) as seen, torch.no_grad():
        model(x)
    assert one.layer in seen


@pytest.mark.parametrize("head", ["classification_head", "regression_head"])
def test_the_proof_of_a_detector_that_finds_nothing_compares_every_head(head: str) -> None:
    model, example = network("detection").eval(), [torch.rand(3, HEIGHT, WIDTH)]
    model.score_thresh = 2.0  # no box has such a score: the answer is empty
    graph = slimcnn.trace(model, example)
    plan = slimcnn.allocate(graph, slimcnn.score(model, graph, "l2"), slimcnn.Target(macs=0.5))
    small, masked = slimcnn.prune(model, graph, plan), slimcnn.mask(model, graph, plan)
    assert verify(masked, small, graph, plan).holds
    with torch.no_grad():
        [*getattr(small.head, head).children()][-1].bias.add_(1.0)
    assert not verify(masked, small, graph, plan).holds


def test_sensitivity_of_a_detector_counts_the_offsets_of_boxes_as_much_as_the_scores() -> None:
    model, example = sure_detector(), torch.rand(1, 3, HEIGHT, WIDTH)
    graph = slimcnn.trace(model, example)
    images = torch.rand(24, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    measured = slimcnn.sensitivity(model, graph, slimcnn.score(model, graph, "l2"), images.split(1))
    plan = slimcnn.allocate(graph, measured, slimcnn.Target(macs=0.6, scope="sensitivity"))
    removed = {
        head: sum(len(channels) for name, channels in plan.removed.items() if head in name)
        for head in ("classification_head", "regression_head")
    }
    assert max(removed.values()) < 3 * min(removed.values())
