"""The whole chain on a tiny network of each task: train, prune, recover, distill, search, and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_tasks import dataset, network, write_camvid, write_voc

import slimcnn
from at_hand import mostly_slow
from command_line import call
from slimcnn import steps
from slimcnn.checkpoints import read_information
from slimcnn.errors import RecipeError
from slimcnn.searching import Search
from slimcnn.show import SILENT
from slimcnn.tasks import task_named, tasks

FIXED: dict[str, Any] = {"layout": "nchw", "precision": "32", "batch_size": 8, "optimizer": "adamw"}
NAMES = [entry.name for entry in tasks]


@pytest.mark.parametrize("name", mostly_slow(NAMES, ["segmentation", "multilabel"]))
def test_every_task_runs_through_the_chain_and_every_cut_is_proven(name: str, tmp_path: Path) -> None:
    data, model = dataset(name, 24), network(name)
    chain = [
        steps.Train(epochs=1, learning_rate=0.01, **FIXED),
        steps.Prune(macs=0.6, batches=2),
        steps.LeastSquares(images=16),
        steps.Distill(epochs=1, learning_rate=0.001, **FIXED),
    ]
    result = slimcnn.chain(model, data, chain, out=tmp_path, trained=False, latency_seconds=0.1, show=SILENT)
    report = result.report
    assert report.verdict is not None
    assert report.verdict.equal
    assert report.after.macs <= 0.6 * report.before.macs
    plain = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert plain["metric"]["name"] == task_named(name).metric.name
    assert plain["before"]["metric"] is not None
    assert (report.after.top1 is None) == (name != "classification")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ("data:image/jpeg;base64" in page) == (name in ("segmentation", "detection"))
    again = slimcnn.chain(model, data, chain, out=tmp_path, trained=False, latency_seconds=0.1, show=SILENT)
    assert again.report.model_dump_json() == report.model_dump_json()  # nothing runs twice


@pytest.mark.parametrize("name", ["segmentation", "regression"])
def test_a_search_stays_within_a_drop_in_units_of_the_metric(name: str, tmp_path: Path) -> None:
    data, model = dataset(name, 24), network(name)
    list(slimcnn.fit(model, data, training=slimcnn.Training(epochs=3, learning_rate=0.01, **FIXED)))
    search = Search(max_drop=30, pruning_ratios=(0.1, 0.3), refine=0)
    result = slimcnn.chain(
        model, data, [steps.Prune(search=search)], out=tmp_path, latency_seconds=0.1, show=SILENT
    )  # fmt: skip
    assert result.report.after.macs < result.report.before.macs


def test_no_file_of_a_segmentation_run_calls_its_metric_top1(tmp_path: Path) -> None:
    data, model = dataset("segmentation", 24), network("segmentation")
    search = Search(max_drop=60, pruning_ratios=(0.1, 0.3), refine=0)
    chain = [steps.Train(epochs=3, learning_rate=0.01, **FIXED), steps.Prune(search=search)]
    slimcnn.chain(model, data, chain, out=tmp_path, trained=False, latency_seconds=0.1, show=SILENT)
    files = [path for path in tmp_path.rglob("*.json") if path.name in ("report.json", "done.json")]
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    contents += [read_information(path) for path in tmp_path.glob("*.safetensors")]
    contents += [torch.load(path, weights_only=True)["history"] for path in tmp_path.rglob("state.pt")]
    assert len(contents) == 1 + 3 + 2 + 1
    assert [one for content in contents for one in called_top1(content)] == [None, None]  # those of the test images
    assert "top1" not in (tmp_path / "2-prune" / "search.log").read_text(encoding="utf-8")


def called_top1(content: Any) -> list[Any]:
    """The values of all keys that are called top1."""
    if isinstance(content, list):
        return [one for part in content for one in called_top1(part)]
    if not isinstance(content, dict):
        return []
    inside = [one for part in content.values() for one in called_top1(part)]
    return [value for name, value in content.items() if "top1" in name] + inside


def test_soft_pruning_sparsity_training_and_taylor_work_on_masks(tmp_path: Path) -> None:
    data, model = dataset("segmentation", 24), network("segmentation")
    soft = slimcnn.Training(epochs=1, learning_rate=0.001, **FIXED)
    chain = [
        steps.Sparsify(relations="none", epochs=1, learning_rate=0.001, **FIXED),
        steps.Prune(macs=0.7, criterion="taylor", batches=1),
        steps.Recalibrate(images=16),
        steps.Prune(macs=0.7, scope="local", soft=soft),
    ]
    result = slimcnn.chain(model, data, chain, out=tmp_path, trained=False, latency_seconds=0.1, show=SILENT)
    assert result.report.verdict.equal


def test_distillation_per_pixel_compares_every_pixel() -> None:
    data, model = dataset("segmentation", 8), network("segmentation")
    task = task_named("segmentation")
    x, y = data.normalization(data.train.pixels), data.train.labels
    model.eval()
    assert float(task.distilling("0*cross_entropy+kd", [model])(model, x, y).total.detach()) < 1e-6
    other = network("segmentation")
    with torch.no_grad():
        other.head.weight.mul_(3)
    assert float(task.distilling("0*cross_entropy+kd", [other])(model, x, y).total.detach()) > 1e-4


def test_a_detector_learns_head_outputs_and_features() -> None:
    data, model = dataset("detection", 8), network("detection")
    objective = task_named("detection").distilling("cross_entropy+0.5*kd+fitnet:layer=backbone", [model])
    loss = objective(model.train(), data.normalization(data.train.pixels), data.train.labels)
    assert {"classification", "bbox_regression", "kd", "fitnet"} == set(loss.terms)


@pytest.mark.parametrize("name", ["detection", "regression", "multilabel"])
def test_a_loss_between_distributions_is_refused_where_there_are_none(name: str) -> None:
    with pytest.raises(RecipeError, match="distributions over classes"):
        task_named(name).distilling("dkd", [network(name)])


def test_the_command_line_compresses_a_segmentation_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = write_camvid(tmp_path / "data"), tmp_path / "run"
    code, _, err = call(
        f"compress --task segmentation --data camvid:{folder} --model tiny_tasks:segmenter --pretrain 1 --macs 0.7 "
        f"--scope local --batch-size 4 --deterministic --to none --out {out}",
        capsys, monkeypatch,
    )  # fmt: skip
    assert code == 0, err
    plain = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert plain["metric"] == {"name": "mean IoU", "unit": "%", "higher_is_better": True}
    code, told, err = call(f"evaluate --weights {out}/compressed.safetensors --data camvid:{folder} --model "
                           "tiny_tasks:segmenter --json", capsys, monkeypatch)  # fmt: skip
    assert code == 0, err
    assert json.loads(told)["mean IoU"] == pytest.approx(plain["after"]["metric"])


def test_a_task_that_the_data_does_not_have_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_voc(tmp_path / "data")
    code, _, err = call(
        f"compress --task segmentation --data voc:{folder} --model resnet8 --pretrain 1 --out {tmp_path / 'run'}",
        capsys, monkeypatch,
    )  # fmt: skip
    assert code == 2
    assert "voc has targets for detection, not for segmentation" in " ".join(err.split())
