"""Benchmarks, studies, searches, int8 and exports of every task speak of its metric, and use its direction."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_tasks import HEIGHT, WIDTH, dataset, network

import slimcnn
from command_line import call
from slimcnn import steps, views
from slimcnn.benchmarking import Benchmark, BenchmarkRow, rule, subjects_of
from slimcnn.errors import DataError, ModelError, SearchError
from slimcnn.exporting import compare, export
from slimcnn.exporting.quantizing.accuracy import judged
from slimcnn.measuring import Latency
from slimcnn.playground import playground_of
from slimcnn.reporting import markdown
from slimcnn.reporting.outcome import MetricName
from slimcnn.running.chain import _warning
from slimcnn.searching import Search
from slimcnn.show import SILENT, Show
from slimcnn.studying import parse_study, run_study
from slimcnn.tasks import task_named
from slimcnn.training import judge

EXAMPLE = torch.zeros(1, 3, HEIGHT, WIDTH)
ERROR = MetricName(name="mean absolute error", unit="", higher_is_better=False)
OTHERS = ("segmentation", "detection", "regression", "multilabel")


def benchmark_of(name: str, **options: Any) -> Benchmark:
    data = dataset(name)
    torch.manual_seed(1)
    known = {"images": data.test, "normalization": data.normalization, "task": name, "classes": len(data.classes)}
    known |= {"seconds": 0.02, "processes": 0, "runtimes": ["torch"]}
    return slimcnn.benchmark({"net": network(name), "again": network(name)}, EXAMPLE, **(known | options))


def written(view: views.View) -> str:
    return markdown(view.title, view.headline, view.sections)


@pytest.mark.parametrize("name", OTHERS)
def test_a_benchmark_measures_the_metric_of_its_task_in_the_runtime(name: str) -> None:
    found, data = benchmark_of(name), dataset(name)
    expected = judge(network(name), data.test, data, device="cpu").score
    assert [row.why for row in found.rows] == ["", ""]
    assert [row.score for row in found.rows] == [pytest.approx(expected), pytest.approx(expected)]
    assert (found.rows[1].top1, found.rows[1].points, found.rows[1].points_error) == (None, 0.0, None)
    view = views.benchmark(found)
    text, metric = written(view), task_named(name).metric
    assert metric.name in text
    assert "top-1" not in text.lower()
    assert view.data["metric"]["name"] == metric.name
    assert view.data["rows"][0]["metric"] == found.rows[0].metric
    assert "top1" not in json.dumps(view.data)


def test_a_benchmark_in_another_runtime_reads_the_maps_of_a_segmentation_network() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    found, data = benchmark_of("segmentation", runtimes=["onnxruntime"], batches=(5,)), dataset("segmentation")
    expected = judge(network("segmentation"), data.test, data, device="cpu").score
    assert found.rows[0].score == pytest.approx(expected, abs=0.2)


def test_the_json_of_a_benchmark_by_top_1_is_that_of_earlier_versions() -> None:
    view = views.benchmark(benchmark_of("classification"))
    assert "metric" not in view.data
    assert "metric" not in view.data["rows"][0]
    assert 0 <= view.data["rows"][0]["top1"] <= 100


def test_images_of_another_task_need_the_number_of_classes() -> None:
    with pytest.raises(DataError, match="mean IoU needs the number of classes"):
        benchmark_of("segmentation", classes=None)


def row(name: str, ms: float, error: float) -> BenchmarkRow:
    time = Latency(
        median_ms=ms, lower_ms=0.99 * ms, upper_ms=1.01 * ms, n=100, batch=1, threads=1, device="cpu",
        runtime="OpenVINO", relative=ms / 10, relative_lower=0.99 * ms / 10, relative_upper=1.01 * ms / 10,
    )  # fmt: skip
    return BenchmarkRow(name, "openvino", 1, 1, latency=time, reference="slow", bytes=1, metric=error)


def test_the_network_to_ship_is_the_fastest_whose_error_is_low_enough() -> None:
    rows = (row("slow", 10.0, 0.2), row("middle", 5.0, 0.2015), row("fast", 1.0, 0.9))

    def ship(max_drop: float | None) -> str:
        found = Benchmark(rows, 12, "test", max_drop, 1.0, metric=ERROR)
        return found.recommendations[0].row.network

    assert [ship(None), ship(0.0001), ship(1.0)] == ["middle", "slow", "fast"]
    assert rule(None, known=True, metric=ERROR).startswith(
        "The fastest whose mean absolute error is at most 1 % above the best of the table;"
    )
    assert rule(None, known=True).startswith("The fastest whose top-1 is at most 1 point below the best of the table;")


@pytest.fixture(scope="module")
def regression_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose images only this process knows."""
    folder = tmp_path_factory.mktemp("runs") / "regression"
    chain = [steps.Prune(macs=0.6, scope="local")]
    torch.manual_seed(0)
    net = slimcnn.build("resnet8", num_classes=2, in_channels=3)
    slimcnn.chain(net, dataset("regression"), chain, out=folder, show=SILENT, latency_seconds=0.05)
    return folder


def test_a_run_whose_images_are_not_available_says_which_metric_is_not_measured(regression_run: Path) -> None:
    found = subjects_of([regression_run])
    assert found.images is None
    assert found.notes[0].startswith("Mean absolute error is not measured: ")
    assert found.metric == ERROR
    by_file = subjects_of([regression_run / "compressed.safetensors"], input_shape=(3, HEIGHT, WIDTH))
    assert by_file.notes == ("Mean absolute error is not measured: give --data.",)


def test_the_page_that_classifies_images_refuses_a_network_for_another_task(regression_run: Path) -> None:
    with pytest.raises(ModelError, match="the page shows the class of an image, and this run is for regression"):
        playground_of(regression_run)


def test_the_certificate_of_another_task_never_says_top_1(regression_run: Path) -> None:
    found = slimcnn.verify(regression_run, data=dataset("regression"))
    assert not found.failed, found.failed
    assert "top-1" not in str([vars(check) for check in found.checks])
    assert any(check.what == "mean absolute error on the test images" for check in found.checks)


def test_a_search_by_an_error_allows_it_to_rise_and_reports_values_as_they_are(tmp_path: Path) -> None:
    said: list[str] = []
    search = Search(max_drop=30, pruning_ratios=(0.1, 0.3), refine=0, complete=True)
    result = slimcnn.chain(
        network("regression"), dataset("regression"), [steps.Prune(search=search)], out=tmp_path, latency_seconds=0.05,
        show=Show(say=said.append),
    )  # fmt: skip
    (section,) = (one for one in result.report.sections if one.title == "Search results")
    text, figure = section.blocks
    assert "raises validation mean absolute error by at most 30 without training" in text.text
    assert "-" not in text.text
    assert "−" not in text.text
    assert figure.data["base"] == result.report.reference_metric > 0
    assert any("validation mean absolute error may rise by 30" in line for line in said)


def test_a_search_that_finds_nothing_names_the_metric_in_its_unit(tmp_path: Path) -> None:
    search = Search(max_drop=0, pruning_ratios=(0.9,), refine=0)
    data, net = dataset("regression"), network("regression")
    training = slimcnn.Training(epochs=5, learning_rate=0.01, layout="nchw", precision="32", optimizer="adamw")
    list(slimcnn.fit(net, data, training=training))
    with pytest.raises(SearchError) as caught:
        slimcnn.chain(net, data, [steps.Prune(search=search)], out=tmp_path, show=SILENT)
    assert re.match(r"no configuration stays within 0 of \d\S+: the mildest \(.*\) reaches \d", str(caught.value))
    assert "%" not in str(caught.value)


def test_outputs_of_regression_are_not_compared_by_top_1(tmp_path: Path) -> None:
    y = np.array([[1.0, 1.000001], [2.0, 0.0]])
    assert compare([y], [y], classifies=False).agreement is None
    pytest.importorskip("onnxscript")
    (file,) = export(network("regression"), EXAMPLE, "onnx", out=tmp_path, classifies=False)
    assert "top-1" not in str(file.parity)


def test_int8_of_maps_without_a_task_is_judged_by_pixel_accuracy_and_says_so() -> None:
    maps, masks = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4)
    assert judged(maps, masks).metric.name == "pixel accuracy"
    assert judged(torch.zeros(2, 3), torch.zeros(2)).metric.name == "top-1"


def test_a_step_that_raises_a_small_error_is_named_in_a_warning() -> None:
    step, metric = steps.Recalibrate(), task_named("regression").metric
    assert _warning(step, 0.0312, 0.0358, 100, metric).startswith(
        "recalibrate raised validation mean absolute error: 0.0312 -> 0.0358; "
    )
    assert _warning(step, 0.0312, 0.0313, 100, metric) == ""
    assert _warning(step, 0.0358, 0.0312, 100, metric) == ""


STUDY = """
deterministic = true
latency_seconds = 0.02
[study]
measure = ["accuracy", "validation", "macs_left"]
[network]
model = "tiny_tasks:regressor"
[data]
name = "tiny_tasks:regression_data"
[[steps]]
step = "train"
epochs = 1
[[steps]]
step = "prune"
scope = "local"
[vary]
"prune.macs" = [0.8, 0.6]
"""


def test_a_study_of_regression_is_one_of_its_error(tmp_path: Path) -> None:
    found = run_study(parse_study(STUDY, "errors"), tmp_path, source=STUDY)
    assert [one.why for one in found.rows] == ["", ""]
    assert found.metric == ERROR
    report = json.loads((tmp_path / found.rows[0].folder / "report.json").read_text(encoding="utf-8"))
    assert found.rows[0].values["accuracy"] == report["after"]["metric"]
    page = (tmp_path / "study.html").read_text(encoding="utf-8")
    assert "top-1" not in page
    assert "mean absolute error" in page


def test_a_curve_and_a_benchmark_of_segmentation_on_the_command_line_never_say_top_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    common = "--data tiny_tasks:segmentation_data --model tiny_tasks:segmenter"
    code, told, err = call(
        f"compress {common} --pretrain 1 --curve 0.8,0.6 --recover none --scope local --deterministic "
        f"--out {tmp_path}",
        capsys, monkeypatch,
    )  # fmt: skip
    assert code == 0, err
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    code, compared, err = call(
        f"benchmark {tmp_path / 'macs-0.6'} --runtime torch --seconds 0.02 --processes 0", capsys, monkeypatch
    )
    assert code == 0, err
    measured = (tmp_path / "macs-0.6" / "benchmark.html").read_text(encoding="utf-8")
    for text in (told, page, compared, measured):
        assert "top-1" not in text.lower().replace("\u2011", "-").replace(str(tmp_path), "")
        assert "mean iou" in text.lower()
