"""Tuning replaces the labels of every task whose answers can take their place, and refuses or skips the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_tasks import dataset, network

import slimcnn
from slimcnn import steps
from slimcnn.datasets import Dataset, Images
from slimcnn.errors import RecipeError
from slimcnn.show import SILENT, Show
from slimcnn.steps.tune import ANSWERS


def without_labels(data: Dataset) -> Dataset:
    parts = {name: getattr(data, name) for name in ("train", "validation")}
    blank = {name: Images(part.in_memory().pixels, torch.zeros_like(part.labels)) for name, part in parts.items()}
    return replace(data, **blank)


@pytest.mark.parametrize(("loss", "said"), [("features", "percent of their variance"), (ANSWERS, f"loss {ANSWERS}")])
@pytest.mark.parametrize("name", ["classification", "segmentation", "regression"])
def test_a_network_learns_from_the_reference_and_reads_no_label(
    name: str, loss: str, said: str, tmp_path: Path
) -> None:
    data, trained = dataset(name, 24), network(name)
    settings = slimcnn.Training(epochs=1, learning_rate=0.01, optimizer="adamw", layout="nchw", precision="32")
    for _ in slimcnn.fit(trained, data, training=settings):
        pass
    chain = [
        steps.Prune(macs=0.6, scope="local", criterion="l2"),
        steps.Tune(images=24, epochs=2, batch_size=8, loss=loss),
    ]
    weights = []
    for number, each in enumerate((data, without_labels(data))):
        result = slimcnn.chain(
            trained, each, chain, out=tmp_path / str(number), deterministic=True, latency_seconds=0.01, show=SILENT
        )
        weights.append(result.model.state_dict())
        section = next(one for one in result.report.sections if one.title == "Tuning without labels")
        assert said in section.blocks[0].text
    assert all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())


def test_a_detector_is_refused_or_left_as_it_is_with_a_word(tmp_path: Path) -> None:
    data, model = dataset("detection", 8), network("detection")
    with pytest.raises(RecipeError, match="answers of the task detection cannot take the place of labels: use distill"):
        slimcnn.chain(model, data, [steps.Tune()], out=tmp_path / "no", latency_seconds=0.01, show=SILENT)
    said: list[str] = []
    show = Show(say=said.append)
    slimcnn.chain(model, data, [steps.Tune(optional=True)], out=tmp_path / "yes", latency_seconds=0.01, show=show)
    assert "  No tuning: answers of the task detection cannot take the place of labels." in said


def test_the_highest_value_of_a_users_metric_is_kept_where_a_tasks_own_metric_is_an_error() -> None:
    values = iter([5.0, 1.0, 9.0, 2.0])  # before the first step, and after each epoch
    settings = slimcnn.Training(epochs=3, learning_rate=1e-3, optimizer="adamw", layout="nchw", precision="32")
    model, data = network("regression"), dataset("regression", 16)
    *_, last = slimcnn.fit(model, data, validation=lambda _: next(values), training=settings)
    assert (last.kept, last.kept_metric) == (2, 9.0)
