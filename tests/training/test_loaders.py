"""Any loader of batches (x, y), and any metric, where images or a number are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from training_runs import PLAIN, network, shapes, tensors

import slimcnn
from slimcnn.datasets import batches
from slimcnn.errors import DataError, RecipeError
from slimcnn.searching import Evaluator, Search, StudyStorage, search
from slimcnn.training import Training, evaluate, fit

SETTINGS = Training(epochs=2, learning_rate=0.05, save_every_seconds=0, **PLAIN)
DATA = shapes()


def loader(part: str = "train", *, shuffle: bool = False, size: int = 16, **more: Any) -> DataLoader:
    images = getattr(DATA, part)
    return DataLoader(TensorDataset(DATA.normalization(images.pixels), images.labels), size, shuffle, **more)


def test_training_on_a_loader_in_order_is_training_on_its_batches() -> None:
    class SameBatches:
        """The batches of the dataset, from a loop of the user."""

        def __len__(self) -> int:
            return 13

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            plain = {"normalization": DATA.normalization, "augmentation": DATA.augmentation}
            return batches(DATA.train, 16, **plain, seed=0)

    training = Training(epochs=1, batch_size=16, learning_rate=0.05, **PLAIN)
    ours, theirs = network(), network()
    (one,) = fit(ours, DATA, training=training)
    (other,) = fit(theirs, SameBatches(), validation=loader("validation"), training=training)
    assert one.terms == other.terms
    assert one.validation_metric == other.validation_metric
    assert all(torch.equal(a, b) for a, b in zip(tensors(ours).values(), tensors(theirs).values(), strict=True))


class Cut(Exception):
    pass


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shuffling_loader_cut_in_the_middle_of_an_epoch_resumes_with_the_same_bits(
    tmp_path: Path, workers: int
) -> None:
    def run(model: nn.Module, **more: Any) -> None:
        torch.manual_seed(int(torch.randint(1000, ())))
        list(fit(model, loader(shuffle=True, num_workers=workers), validation=loader("validation"), **more))

    def interrupt(done: int, total: int) -> None:
        if done == 17:
            raise Cut

    whole, cut, resumed, steps = network(), network(), network(), []
    run(whole, training=SETTINGS)
    with pytest.raises(Cut):
        run(cut, training=SETTINGS, folder=tmp_path, progress=interrupt)
    run(resumed, training=SETTINGS, folder=tmp_path, progress=lambda done, _: steps.append(done))
    assert steps[0] == 18
    assert all(torch.equal(a, b) for a, b in zip(tensors(whole).values(), tensors(resumed).values(), strict=True))


def test_epochs_of_a_shuffling_loader_differ() -> None:
    orders = []
    model = network()

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                orders.append(float(x.sum()))
            return self.inner(x)

    list(fit(Watched(), loader(shuffle=True), training=SETTINGS))
    assert len(orders) == 26
    assert orders[:13] != orders[13:]


def test_a_metric_decides_which_epoch_is_kept() -> None:
    values = iter([1.0, 7.0, 3.0])
    model, seen = network(), []

    def metric(net: nn.Module) -> float:
        assert not net.training
        assert not torch.is_grad_enabled()
        seen.append(tensors(net))
        return next(values)

    history = list(fit(model, loader(), validation=metric, training=SETTINGS))
    assert [epoch.validation_metric for epoch in history] == [7.0, 3.0]
    assert (history[-1].kept, history[-1].kept_metric) == (1, 7.0)
    assert all(torch.equal(a, b) for a, b in zip(seen[1].values(), tensors(model).values(), strict=True))


def test_a_metric_takes_the_place_of_a_datasets_validation_images() -> None:
    history = list(fit(network(), DATA, validation=lambda net: 5, training=SETTINGS))
    assert [epoch.validation_metric for epoch in history] == [5.0, 5.0]


def test_without_validation_the_last_epoch_is_kept() -> None:
    model = network()
    epochs = fit(model, loader(), training=SETTINGS)
    *_, last = epochs
    assert last.validation_metric != last.validation_metric
    assert last.kept == 2


def test_a_loader_evaluates_as_its_images_do() -> None:
    model = network()
    assert evaluate(model, loader("test")) == evaluate(model, DATA.test, DATA.normalization, batch_size=16)
    endless = (batch for batch in loader("test"))  # no length
    assert evaluate(model, endless).n == 50
    with pytest.raises(DataError, match=r"pass data\.normalization"):
        evaluate(model, DATA.test)


def test_a_batch_may_be_a_mapping_as_of_hugging_face() -> None:
    named = [{"pixel_values": x, "labels": y} for x, y in loader("test")]
    assert evaluate(network(), named).n == 50


def test_taylor_sensitivity_least_squares_and_recalibration_take_a_loader() -> None:
    model = network(dropout=0.0).eval()
    graph = slimcnn.trace(model, torch.zeros(1, 2, 8, 8))
    scores = slimcnn.score(model, graph, "taylor", data=loader())
    scores = slimcnn.sensitivity(model, graph, scores, loader())
    plan = slimcnn.allocate(graph, scores, slimcnn.Target(macs=0.6, scope="sensitivity"))
    small = slimcnn.prune(model, graph, plan)
    assert slimcnn.least_squares(small, model, graph, plan, loader()).after >= 0
    assert slimcnn.recalibrate(small, loader()) == 1


@pytest.mark.parametrize("way", ["loader", "metric"])
def test_a_search_measures_on_a_loader_or_by_a_metric(tmp_path: Path, way: str) -> None:
    model = network(dropout=0.0)
    list(fit(model, loader(), training=SETTINGS))
    graph = slimcnn.trace(model, torch.zeros(1, 2, 8, 8))
    measure: dict[str, Any] = {"images": loader("validation")}
    if way == "metric":
        measure = {"metric": lambda net: evaluate(net, loader("validation")).top1}
    evaluator = Evaluator(model, graph, criterion="l2", **measure)
    settings = Search(max_drop=80, pruning_ratios=(0.1, 0.3), refine=0)
    found = search(evaluator, settings, StudyStorage.open(tmp_path / "points.log", "loaders", settings))
    assert found.base == evaluate(model, loader("validation")).top1
    assert found.best.metric >= found.base - 80


NO_LENGTH = "has no length, and the learning rate depends on the number of steps"
GOOD = (torch.zeros(4, 2, 8, 8), torch.tensor([0, 1, 2, 3]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "the loader gives no batch"),
        ([GOOD[0]], r"batch 0 of the loader is a Tensor: expected \(images, labels\)"),
        ([{"a": 1}], "batch 0 of the loader is a dict"),
        ([(GOOD[0].byte(), GOOD[1])], r"batch 0 has images torch.uint8 of shape .*: expected float tensors"),
        ([(GOOD[0][0], GOOD[1])], r"batch 0 has images torch.float32 of shape \(2, 8, 8\)"),
        ([(GOOD[0], GOOD[1].float())], "batch 0 has labels torch.float32"),
        ([(GOOD[0], GOOD[1][:3])], "expected 4 class numbers"),
        ([GOOD, (GOOD[0], GOOD[1] + 1)], "batch 1 has labels 1 to 4, but the network has 4 outputs: labels start at 0"),
        ([GOOD, (GOOD[0], GOOD[1] - 1)], "batch 1 has labels -1 to 2"),
    ],
)
def test_what_is_wrong_with_a_loader_is_said_in_one_line(given: list, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(fit(network(), given, training=SETTINGS))
    assert "\n" not in str(caught.value)


def test_a_loader_of_no_length_is_refused_for_training_before_it_starts() -> None:
    class Endless:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return iter([GOOD])

    with pytest.raises(DataError, match=f"a Endless {NO_LENGTH}"):
        next(fit(network(), Endless(), training=SETTINGS))


def test_labels_beyond_the_outputs_are_refused_in_evaluation() -> None:
    with pytest.raises(DataError, match="a batch has labels 0 to 3, but the network has 3 outputs"):
        evaluate(network(classes=3), [GOOD])


@pytest.mark.parametrize(("metric", "message"), [(lambda _: None, "a NoneType"), (lambda _: float("nan"), "nan")])
def test_a_metric_that_returns_no_number_is_refused(metric: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"the metric returned {message}: return a"):
        list(fit(network(), loader(), validation=metric, training=SETTINGS))


def test_cached_views_need_images_that_can_be_told_apart() -> None:
    with pytest.raises(RecipeError, match="cached views need a dataset"):
        fit(network(), loader(), training=Training(views=1))
