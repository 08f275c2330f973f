"""Int8 files of every task are judged by its metric in their runtime; those of detectors are verified too."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_tasks import HEIGHT, WIDTH, dataset, network, patterns, sure_detector

import slimcnn
from slimcnn import steps
from slimcnn.datasets import Dataset
from slimcnn.datasets.boxes import ObjectBox, boxes_of
from slimcnn.datasets.images import Images
from slimcnn.errors import ExportError, RecipeError
from slimcnn.exporting import read_parity
from slimcnn.exporting.detection_distance import detection_distance
from slimcnn.exporting.quantizing import Accuracy, engines, loss_of
from slimcnn.exporting.quantizing.file_network import FileNetwork
from slimcnn.measuring.metric import Metric
from slimcnn.running.int8_judge import judge_of
from slimcnn.show import SILENT
from slimcnn.tasks import task_named
from slimcnn.training import judge
from slimcnn.verifying import verify

ENGINES = [entry.name for entry in engines]
OTHERS = ("segmentation", "regression", "multilabel")
pytest.importorskip("onnxscript")


def found_by(model: torch.nn.Module, pixels: torch.Tensor) -> list[list[ObjectBox]]:
    """What a detector finds, as targets."""
    with torch.no_grad():
        found = model(list(pixels.float() / 255))
    return [
        [ObjectBox(int(kind) - 1, *box) for kind, box in zip(one["labels"], one["boxes"].tolist(), strict=True)]
        for one in found
    ]


def steady_detector() -> torch.nn.Module:
    """A detector with random weights whose boxes are near their anchors, so that they have an area."""
    model = sure_detector()
    with torch.no_grad():
        model.head.regression_head.bbox_reg.weight.mul_(0.02)
    return model


def own_detections() -> Dataset:
    """Images of which the detector finds exactly what there is to find."""
    pixels = (patterns(64)[40:] * 255).round().to(torch.uint8)  # NNCF clips images much brighter than most
    images = Images(pixels, boxes_of(found_by(steady_detector(), pixels)))
    return replace(dataset("detection"), train=images, validation=images, test=images)


def subject(name: str) -> tuple[torch.nn.Module, Dataset]:
    return (steady_detector(), own_detections()) if name == "detection" else (network(name).eval(), dataset(name))


def quantized(name: str, out: Path, **options: Any) -> Any:
    """Run the step alone; return the entry of its int8 file."""
    model, data = subject(name)
    known = {"engine": "onnxruntime", "max_drop": 1000.0, "images": 16, "seconds": 0.01}
    result = slimcnn.chain(
        model, data, [steps.Quantize(**(known | options))], out=out, latency_seconds=0.02, show=SILENT
    )
    (entry,) = [entry for format_, entry in read_parity(out).items() if format_.endswith("_int8")]
    return result, entry


@pytest.fixture(scope="module")
def quantized_detector(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any], Path]:
    """The run of a detector, the entry of its int8 file by ONNX Runtime, and the folder."""
    out = tmp_path_factory.mktemp("detector") / "run"
    return *quantized("detection", out, images=32), out


@pytest.fixture
def run(quantized_detector: tuple[Any, dict[str, Any], Path], tmp_path: Path) -> Path:
    """A copy of the detector's folder, to change."""
    return Path(shutil.copytree(quantized_detector[2], tmp_path / "copy"))


@pytest.mark.parametrize("name", OTHERS)
def test_int8_is_judged_by_the_metric_of_its_task_in_the_runtime(name: str, tmp_path: Path) -> None:
    result, entry = quantized(name, tmp_path / "run")
    check_judged(name, result, entry, tmp_path / "run")


def test_int8_of_a_detector_is_judged_by_its_map(quantized_detector: tuple[Any, dict[str, Any], Path]) -> None:
    check_judged("detection", *quantized_detector)


def check_judged(name: str, result: Any, entry: dict[str, Any], out: Path) -> None:
    (model, data), task = subject(name), task_named(name)
    assert {key: entry["metric"][key] for key in ("name", "unit", "higher_is_better")} == {
        "name": task.metric.name, "unit": task.metric.unit, "higher_is_better": task.metric.higher_is_better,
    }  # fmt: skip
    assert entry["metric"]["before"] == pytest.approx(judge(model, data.validation, data, device="cpu").score, rel=1e-3)
    opened = FileNetwork(
        entry["runtime"], out / next(iter(entry["files"])),
        *((1, entry["facts"]["outputs"]) if name == "detection" else ()),
    )  # fmt: skip
    assert entry["metric"]["after"] == pytest.approx(judge(opened, data.validation, data, device="cpu").score)
    gained = task.metric.gain(entry["metric"]["before"], entry["metric"]["after"])
    assert entry["metric"]["drop"] == pytest.approx(-gained)
    assert entry["metric"]["standard_error"] is None
    assert entry["test_metric"]["images"] == len(data.test)
    assert not [key for key in entry if "top1" in key]
    (section,) = [one for one in result.report.sections if one.title == "Int8"]
    said = json.dumps([block.model_dump(mode="json") for block in section.blocks])
    assert task.metric.name in said
    assert "top-1" not in said


@pytest.mark.parametrize("engine", ["onnxruntime", "nncf", pytest.param("nncf_onnx", marks=pytest.mark.slow)])
def test_a_detector_in_int8_finds_nearly_what_it_finds_in_float(
    engine: str, quantized_detector: tuple[Any, dict[str, Any], Path], tmp_path: Path
) -> None:
    entry = quantized_detector[1]
    if engine != "onnxruntime":
        _, entry = quantized("detection", tmp_path / "run", engine=engine, images=32)
    assert entry["metric"]["before"] > 80  # not 100: boxes with equal scores are in any order
    assert entry["metric"]["after"] > 60
    assert 0 < entry["detections_apart"] < 0.3
    assert entry["detections"] > 20
    assert entry["tolerance"] == 2 * entry["detections_apart"]


def test_verify_compares_the_detections_of_an_int8_file(run: Path) -> None:
    data = own_detections()
    checks = int8_checks(run, data)
    assert checks
    assert {(check.status, "weighted by score" in check.why) for check in checks} == {("passed", True)}
    known = json.loads((run / "parity.json").read_text())
    known["onnx_int8"] |= {"tolerance": known["onnx_int8"]["detections_apart"] / 100}
    (run / "parity.json").write_text(json.dumps(known))
    (check,) = [one for one in int8_checks(run, data) if one.status == "failed"]
    assert "are allowed" in check.why


def int8_checks(run: Path, data: Dataset) -> list[Any]:
    found = verify(run, data=data, model=steady_detector())
    return [one for one in found.checks if one.what == "onnx_int8 outputs match the network"]


def test_a_metric_in_a_unit_of_its_own_needs_a_limit_and_percentages_have_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="needs max_drop: by how much the mean absolute error may rise in int8"):
        quantized("regression", tmp_path / "a", max_drop=None)
    _, entry = quantized("multilabel", tmp_path / "b", max_drop=None)
    assert entry["metric"]["max_drop"] == 0.5


def test_an_error_that_rises_is_a_loss_and_one_that_falls_is_none() -> None:
    error = Metric("error", unit="", higher_is_better=False)
    small, large = Accuracy(0.25, 4, error), Accuracy(0.75, 4, error)
    assert loss_of(small, large) == (0.5, None)
    assert loss_of(large, small) == (-0.5, None)


def test_layers_stay_in_float_until_the_error_is_within_the_limit(tmp_path: Path) -> None:
    _, loose = quantized("regression", tmp_path / "loose")
    _, tight = quantized("regression", tmp_path / "tight", max_drop=0.0)
    assert loose["kept_in_float"] == []
    assert tight["kept_in_float"] or tight["metric"]["drop"] <= 0


def test_of_several_outputs_each_counts_the_same_in_the_distance_from_float() -> None:
    judge = judge_of(task_named("segmentation"), dataset("segmentation"))
    assert judge is not None
    small, large = (scale * torch.tensor([[-1.0, 1.0]]) for scale in (1e-2, 1e2))
    distances = [judge.distance((small, large), found) for found in ((2 * small, large), (small, 2 * large))]
    assert distances[0] == pytest.approx(distances[1])


def test_a_judge_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"a judge needs labels: give validation=\(images, labels\)"):
        slimcnn.quantize(
            network("regression"), torch.zeros(1, 3, HEIGHT, WIDTH), out=tmp_path / "x", engine="onnxruntime",
            images=torch.rand(4, 3, HEIGHT, WIDTH), judge=object(),  # type: ignore[arg-type]
        )  # fmt: skip
    assert not (tmp_path / "x").exists()


def detected(*rows: tuple[float, int, tuple[float, ...]]) -> dict[str, torch.Tensor]:
    """Detections of score, label and box."""
    return {
        "scores": torch.tensor([score for score, _, _ in rows]),
        "labels": torch.tensor([label for _, label, _ in rows], dtype=torch.int64),
        "boxes": torch.tensor([box for _, _, box in rows]).reshape(-1, 4),
    }


BOX, HALF, FLAT = (0.0, 0.0, 4.0, 4.0), (0.0, 0.0, 4.0, 2.0), (0.0, 0.0, 4.0, 0.0)


@pytest.mark.parametrize(
    ("found", "apart"),
    [
        (detected((0.8, 1, BOX)), 0.0),
        (detected((0.8, 2, BOX)), 1.0),  # another class
        (detected((0.8, 1, HALF)), 0.5),  # half of the box
        (detected((0.4, 1, BOX)), 0.4 / 1.2),  # half as sure: 0.4 of 0.8 is lost, nothing of the other's 0.4
        (detected((0.8, 1, BOX), (0.9, 1, FLAT)), 0.0),
        (detected(), 1.0),
        (detected((0.8, 1, BOX), (0.8, 2, HALF)), 0.8 / 2.4),  # one more
    ],
    ids=["equal", "other class", "half a box", "half as sure", "one without area", "nothing", "one more"],
)
def test_the_distance_of_detections_counts_what_is_not_found_again(found: dict[str, Any], apart: float) -> None:
    own = detected((0.8, 1, BOX))
    assert detection_distance([own], [found]) == pytest.approx(apart)
    assert detection_distance([found], [own]) == pytest.approx(apart)


def test_no_detections_are_no_distance() -> None:
    assert detection_distance([detected()], [detected()]) == 0.0


def test_a_file_of_a_fixed_batch_takes_any_number_of_images(tmp_path: Path) -> None:
    model, x = network("regression").eval(), torch.rand(5, 3, HEIGHT, WIDTH)
    (file,) = slimcnn.export(
        model, torch.zeros(3, 3, HEIGHT, WIDTH), "onnx", out=tmp_path, dynamic_batch=False, classifies=False
    )
    found = FileNetwork(file.runtime, file.path, 3)(x)
    with torch.no_grad():
        assert torch.allclose(found, model(x), atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_detector_computes_on_images_boxes_and_scores_stays_in_float(engine: str, tmp_path: Path) -> None:
    chosen = engines[engine].value()
    (file,) = slimcnn.export(
        steady_detector(), torch.zeros(1, 3, HEIGHT, WIDTH), chosen.format, out=tmp_path, images=patterns()[-2:]
    )
    around = chosen.around_layers(file.path)
    kinds = {name.rpartition("/")[2].split("_")[0].lower() for name in around}
    assert {"sigmoid", "exp"} <= kinds
    assert not [name for name in around if "relu" in name.lower()]
    assert not set(around) & {layer for layer in chosen.layers(file.path) if "conv" in layer.lower()}


def test_an_int8_file_of_a_detector_that_finds_nothing_is_unproven_and_not_checked(run: Path) -> None:
    data = own_detections()
    known = json.loads((run / "parity.json").read_text())
    known["onnx_int8"] |= {
        "status": "unproven",
        "why": "nothing was detected",
        "detections_apart": None,
        "tolerance": 0,
    }
    (run / "parity.json").write_text(json.dumps(known))
    checks = int8_checks(run, data)
    assert {(check.status, "no tolerance is recorded: nothing was detected" in check.why) for check in checks} <= {
        ("not checked", True), ("passed", False),
    }  # fmt: skip
    assert "not checked" in {check.status for check in checks}


def test_fine_tuning_of_a_detector_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="int8 fine-tuning of detection is not supported: leave epochs out"):
        quantized("detection", tmp_path / "run", engine="nncf", epochs=1)
    assert not list(tmp_path.rglob("model.xml"))
