"""Networks side by side: what is measured, what is said of it, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import slimcnn
from slimcnn.benchmarking import Benchmark, BenchmarkRow, compare, rule
from slimcnn.benchmarking import session as sessions
from slimcnn.benchmarking.candidate import Candidate
from slimcnn.datasets import Images, Normalization
from slimcnn.errors import DataError, ExportError, ModelError, SlimcnnError, UnknownName
from slimcnn.exporting import export, process_memory, write_model
from slimcnn.measuring import Latency

PLAIN = Normalization((0.0,), (1.0,))
EXAMPLE = torch.zeros(1, 1, 8, 8)


def network(width: int = 4) -> nn.Module:
    """Scores of three classes for gray images of 8 x 8; always the same weights for a width."""
    torch.manual_seed(width)
    layers = (nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))
    return nn.Sequential(*layers).eval()


def pictures(n: int = 50) -> Images:
    torch.manual_seed(0)
    return Images(torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8), torch.randint(0, 3, (n,)))


def top1(model: nn.Module, images: Images) -> float:
    return 100 * float((model(PLAIN(images.pixels)).argmax(1) == images.labels).double().mean())


class Odd(nn.Module):
    """A network whose code asks what its numbers are, which no file can hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) if x.sum() > 1e9 else x.amax((2, 3)).repeat(1, 3)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """Networks and files in three runtimes; done once, because every file starts processes."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "broken.onnx").write_bytes(b"no model")
    options = {"normalization": PLAIN, "bake_normalization": True}
    (file,) = export(network(4), EXAMPLE, out=folder, **options)
    nets = {
        "original": network(16), "compressed": network(4), "pixels": file.path, "broken": folder / "broken.onnx",
        "odd": Odd(),
    }  # fmt: skip
    return slimcnn.benchmark(
        nets, EXAMPLE, runtimes=["onnxruntime", "openvino"], batches=[3], images=pictures(), normalization=PLAIN,
        seconds=0.05, processes=1,
    )  # fmt: skip


def test_every_network_is_measured_in_every_runtime_that_it_has_something_for(measured: Benchmark) -> None:
    assert measured.complete
    assert [(row.network, row.runtime, row.speed != "not run") for row in measured.rows] == [
        ("original", "onnxruntime", True), ("compressed", "onnxruntime", True), ("pixels", "onnxruntime", True),
        ("broken", "onnxruntime", False), ("odd", "onnxruntime", False),
        ("original", "openvino", True), ("compressed", "openvino", True), ("odd", "openvino", False),
    ]  # fmt: skip
    for row in measured.rows:
        if row.latency is None:
            assert row.why
            assert "\n" not in row.why
            continue
        assert row.why == ""
        assert row.latency.n >= 5
        assert (row.latency.batch, row.latency.threads) == (row.batch, row.threads) == (3, 1)
        assert row.reference == "original"
        assert (row.speed == "first") == (row.network == "original")


def test_a_file_that_the_runtime_refuses_is_a_row_that_says_so(measured: Benchmark) -> None:
    (broken,) = (row for row in measured.rows if row.network == "broken")
    assert "ONNX Runtime cannot run broken.onnx" in broken.why


def test_top1_is_that_of_the_network_on_these_images_in_every_runtime(measured: Benchmark) -> None:
    nets = {"original": network(16), "compressed": network(4), "pixels": network(4)}
    ran = [row for row in measured.rows if row.latency is not None]
    assert {row.network for row in ran} == set(nets)  # also the file that takes pixels
    for row in ran:
        assert row.top1 == pytest.approx(top1(nets[row.network], pictures()))
        assert row.points == pytest.approx(row.top1 - top1(network(16), pictures()))
    assert measured.images == 50


def test_files_and_memory_are_those_of_the_network(measured: Benchmark) -> None:
    by = {(row.network, row.runtime): row for row in measured.rows}
    for runtime in ("onnxruntime", "openvino"):
        large, small = by["original", runtime], by["compressed", runtime]
        assert large.bytes > small.bytes > 0
        for row in (large, small):
            assert row.memory is not None
            assert 0 <= row.memory.least <= row.memory.bytes <= row.memory.most < row.memory.whole
            assert row.memory.processes == 1


def test_pytorch_runs_the_module_itself_also_where_no_file_can_hold_it() -> None:
    nets = {"original": network(16), "odd": Odd()}
    found = slimcnn.benchmark(
        nets, EXAMPLE, runtimes=["torch"], images=pictures(), normalization=PLAIN, seconds=0, processes=0
    )
    assert [row.top1 for row in found.rows] == [pytest.approx(top1(net, pictures())) for net in nets.values()]
    assert found.rows[0].bytes == sum(4 * p.numel() for p in network(16).parameters())
    assert found.rows[0].memory is None


@pytest.mark.slow
def test_memory_in_pytorch_is_that_of_a_file_of_the_same_network_or_is_not_known() -> None:
    found = slimcnn.benchmark(
        {"original": network(16), "odd": Odd()}, EXAMPLE, runtimes=["torch"], seconds=0, processes=1
    )
    assert found.rows[0].memory is not None
    assert 0 < found.rows[0].memory.bytes < found.rows[0].memory.whole
    assert found.rows[1].memory is None
    assert found.rows[1].latency is not None


@pytest.mark.slow
def test_a_large_network_needs_the_memory_of_its_weights(tmp_path: Path) -> None:
    features = 100_000

    def written(n: int) -> Path:
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, n), nn.Linear(n, 3)).eval()
        return write_model(model, EXAMPLE, "onnx", tmp_path / str(n))[0]

    files = [written(n) for n in (1, features)]
    small, large = (
        process_memory("onnxruntime", file, EXAMPLE, probe=files[0], probed=EXAMPLE, processes=1) for file in files
    )
    weights = 4 * features * (64 + 3)
    assert small.bytes < 5e6
    assert weights < large.bytes < 4 * weights


def test_networks_that_do_not_classify_are_timed_without_top1() -> None:
    found = slimcnn.benchmark(
        {"features": nn.Conv2d(1, 2, 3)}, EXAMPLE, runtimes=["torch"], images=pictures(), normalization=PLAIN,
        seconds=0, processes=0,
    )  # fmt: skip
    assert found.rows[0].latency is not None
    assert found.rows[0].top1 is None
    assert "a classifier returns" in found.rows[0].why


def test_what_is_known_so_far_comes_after_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = [Candidate("one", network()), Candidate("two", network())]
    turns = compare(candidates, EXAMPLE, runtimes=["torch"], batches=[1, 2], seconds=0, processes=0)
    first = next(turns)
    assert (len(first.rows), first.complete) == (2, False)
    second = next(turns)
    assert (len(second.rows), second.complete) == (4, True)
    assert list(turns) == []


def test_one_number_is_one_batch_size_and_one_number_of_threads() -> None:
    found = slimcnn.benchmark(
        {"one": network()}, EXAMPLE, runtimes=["torch"], batches=2, threads=1, seconds=0, processes=0
    )
    assert [(row.batch, row.threads) for row in found.rows] == [(2, 1)]


def test_energy_is_of_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "energy", lambda call, seconds: 6.0)
    found = slimcnn.benchmark({"one": network()}, EXAMPLE, runtimes=["torch"], batches=[3], seconds=0, processes=0)
    assert found.rows[0].joules == 2.0


@pytest.mark.slow
def test_a_compiled_network_is_timed_too() -> None:
    found = slimcnn.benchmark(
        {"one": network()}, EXAMPLE, runtimes=["torch_compile"], images=pictures(), normalization=PLAIN, seconds=0,
        processes=0,
    )  # fmt: skip
    assert found.rows[0].why == ""
    assert found.rows[0].top1 == pytest.approx(top1(network(), pictures()))


def test_a_network_that_does_not_compile_is_a_row_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> nn.Module:
        raise RuntimeError("no C++ compiler")

    class Compiled(nn.Module):
        forward = fails

    monkeypatch.setattr(torch, "compile", lambda *_, **__: Compiled())
    found = slimcnn.benchmark({"one": network()}, EXAMPLE, runtimes=["torch_compile"], seconds=0, processes=0)
    assert "no C++ compiler" in found.rows[0].why


# What to ship, by hand-made rows.


def timed(ms: float, spread: float = 0.01, ratio: float = 1.0) -> Latency:
    low, high = 1 - spread, 1 + spread
    return Latency(ms, ms * low, ms * high, ratio, ratio * low, ratio * high, 99, 1, 1, "x", "a chip")


def row(name: str, ms: float, top1: float | None, **more: Any) -> BenchmarkRow:
    known = {"latency": timed(ms, more.pop("spread", 0.01), more.pop("ratio", ms)), "reference": "original", "bytes": 9}
    return BenchmarkRow(name, more.pop("runtime", "openvino"), 1, 1, **(known | {"top1": top1} | more))


def shipped(*rows: BenchmarkRow, max_drop: float = 1.0) -> str:
    found = Benchmark(rows, 100, "test", max_drop, 1.0)
    (one,) = found.recommendations
    assert one.sentence in str(found)
    assert one.sentence.startswith(one.headline.split(",")[0])
    assert len(one.headline) < 120
    assert one.sentence.count("within the noise") <= 1
    return one.row.network


def test_the_fastest_within_the_allowed_drop_is_shipped() -> None:
    rows = row("original", 1.0, 93.0), row("compressed", 0.6, 92.2), row("int8", 0.3, 91.0)
    assert shipped(*rows) == "compressed"
    assert shipped(*rows, max_drop=2.0) == "int8"
    assert shipped(*rows, max_drop=0.5) == "original"


def test_of_networks_that_cannot_be_told_apart_by_time_the_most_accurate_then_the_smallest_is_shipped() -> None:
    rows = row("original", 1.0, 93.0, spread=0.3), row("compressed", 0.95, 92.5, spread=0.3)
    assert shipped(*rows) == "original"
    assert shipped(*(replace(one, top1=93.0, bytes=n) for n, one in zip((9, 3), rows, strict=True))) == "compressed"
    text = str(Benchmark(rows, 100, "test", 1.0, 1.0))
    assert "Equally fast within the noise: compressed in OpenVINO." in text


def test_a_difference_below_the_noise_is_called_that() -> None:
    assert row("compressed", 0.99, 93.0, spread=0.01, ratio=0.99).speed == "alike"
    assert row("compressed", 0.9, 93.0, spread=0.5, ratio=0.9).speed == "alike"
    assert row("compressed", 0.9, 93.0, spread=0.05, ratio=0.9).speed == "faster"
    assert row("compressed", 1.1, 93.0, spread=0.05, ratio=1.1).speed == "slower"
    one = row("compressed", 0.5, 92.9, ratio=0.5, points=-0.1, points_error=0.2)
    text = str(Benchmark((row("original", 1.0, 93.0), one), 100, "test", 1.0, 1.0))
    assert "ship compressed in OpenVINO: 0.5 ms a call, 2 times as fast as original there" in text
    assert "top-1 92.90 % (−0.10 ± 0.20 points, below the noise)" in text


def test_times_of_different_runtimes_are_alike_where_their_quartiles_overlap() -> None:
    here, there = (
        row("original", 1.0, 93.0, spread=0.03),
        row("original", 0.95, 93.0, spread=0.03, runtime="onnxruntime"),
    )
    small = replace(there, bytes=1)
    found = Benchmark((replace(here, bytes=2), small), 100, "test", 1.0, 1.0).recommendations[0]
    assert (found.row, found.alike) == (small, (replace(here, bytes=2),))
    apart = Benchmark((here, row("original", 0.9, 93.0, runtime="onnxruntime")), 100, "test", 1.0, 1.0)
    assert apart.recommendations[0].alike == ()


def test_the_noise_of_a_ratio_is_that_of_repeated_medians() -> None:
    draw = np.random.default_rng(0)
    ratios = np.exp(draw.normal(-0.3, 0.4, (2000, 200)))  # 2000 benchmarks of 200 rounds
    lower, medians, upper = np.quantile(ratios, (0.25, 0.5, 0.75), axis=1)
    time = Latency(1, 1, 1, medians[0], lower[0], upper[0], 200, 1, 1, "x", "a chip")
    noise = replace(row("compressed", 1.0, None), latency=time).noise
    assert noise == pytest.approx(1.96 * medians.std(), rel=0.25)


def test_without_accuracy_the_fastest_is_shipped_and_the_rule_says_so() -> None:
    assert shipped(row("original", 1.0, None), row("compressed", 0.5, None)) == "compressed"
    assert rule(1.0, known=False).startswith("The fastest (top-1 is unknown)")


def test_nothing_is_shipped_where_nothing_ran() -> None:
    assert str(Benchmark((BenchmarkRow("a", "torch", 1, 1, why="no"),), 0, "test", 1.0, 1.0)) == "Nothing could be run."


def test_the_error_of_a_difference_is_that_of_resampled_images() -> None:
    draw = np.random.default_rng(0)
    one, two = draw.random(400) < 0.9, draw.random(400) < 0.8
    points, error = sessions.paired(torch.from_numpy(one), torch.from_numpy(two))
    picks = draw.integers(0, 400, (4000, 400))
    differences = 100 * (one[picks].mean(1) - two[picks].mean(1))
    assert points == pytest.approx(100 * (one.mean() - two.mean()))
    assert error == pytest.approx(differences.std(), rel=0.05)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"runtimes": ["openvin"]}, UnknownName, "did you mean 'openvino'"),
        ({"batches": [0]}, ModelError, "batch 0"),
        ({"threads": [1, 0]}, ModelError, "threads 1, 0"),
        ({"processes": -1}, ModelError, "processes -1"),
        ({"images": pictures()}, DataError, "normalization"),
        ({"runtimes": ["coreml"]}, ExportError, "Core ML"),
    ],
)
def test_what_cannot_be_measured_is_refused_first(
    options: dict[str, Any], kind: type[SlimcnnError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        slimcnn.benchmark({"one": network()}, EXAMPLE, **options)


def test_a_runtime_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimcnn.exporting.runtimes.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"pip install 'slimcnn\[openvino\]'"):
        slimcnn.benchmark({"one": network()}, EXAMPLE, runtimes=["openvino"])


def test_a_file_is_not_run_by_another_runtime(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"never opened")
    with pytest.raises(ExportError, match="the files are for onnxruntime"):
        slimcnn.benchmark({"file": file}, EXAMPLE, runtimes=["torch"])
    with pytest.raises(ExportError, match="no file"):
        slimcnn.benchmark({"file": tmp_path / "model.xml"}, EXAMPLE)
    with pytest.raises(ExportError, match="those end with"):
        slimcnn.benchmark({"file": Path(__file__)}, EXAMPLE)


def test_results_are_json(measured: Benchmark) -> None:
    from slimcnn import views

    data = json.loads(json.dumps(views.benchmark(measured).data, allow_nan=False))
    assert [one["network"] for one in data["rows"]] == [one.network for one in measured.rows]
    assert data["rows"][0]["latency"]["median_ms"] > 0
