"""Int8 files: within the accuracy asked by their runtime, or an honest miss; the faster file is recommended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from at_hand import Net, randomize
from slimcnn.datasets import Normalization
from slimcnn.errors import ExportError, UnknownName
from slimcnn.exporting import export, file_digest, formats, fresh_answers, open_in, read_parity, record, source_digest
from slimcnn.exporting.parity import AT_ONCE
from slimcnn.exporting.quantizing import Accuracy, Engine, Quantized, engines, quantize
from slimcnn.exporting.quantizing import float_file as float_file_module
from slimcnn.exporting.quantizing import keeping as keeping_module
from slimcnn.exporting.quantizing.engines import nncf
from slimcnn.exporting.quantizing.int8 import COMPARED
from slimcnn.exporting.quantizing.keeping import PROBE, PROBE_VALUES, Work, probes, search
from slimcnn.exporting.quantizing.speed import speed_of
from slimcnn.exporting.writing import samples_of

NAMES = [entry.name for entry in engines]
EXAMPLE = torch.zeros(1, 3, 8, 8)
QUICK = {"seconds": 0.01, "max_drop": 100.0}


def small() -> nn.Module:
    """A residual network for images of 8x8 with convolutions, batch norms, a sum and a linear layer."""

    def run(n: Net, x: Tensor) -> Tensor:
        y = torch.relu(n.norm(n.stem(x)))
        z = torch.relu(n.inner_norm(n.inner(y)) + y)
        return n.head(z.mean((2, 3)))

    torch.manual_seed(3)
    net = Net(run, stem=nn.Conv2d(3, 16, 3, padding=1, bias=False), norm=nn.BatchNorm2d(16),
              inner=nn.Conv2d(16, 16, 3, padding=1), inner_norm=nn.BatchNorm2d(16), head=nn.Linear(16, 4))  # fmt: skip
    randomize(net)
    return net.eval()


def images(n: int = 48) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def answered(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Images, labeled by the network itself: in float it is always right."""
    with torch.no_grad():
        return x, net(x).argmax(1)


@pytest.fixture(scope="module", params=NAMES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """Float and int8 file of the small network by one engine."""
    net, x = small(), images()
    out = tmp_path_factory.mktemp(request.param)
    return quantize(net, EXAMPLE, out=out, images=x, engine=request.param, validation=answered(net, x),
                    test=answered(net, x[:16]), **QUICK)  # fmt: skip


def test_an_int8_file_answers_nearly_as_float_in_its_runtime_and_alone(made: Quantized) -> None:
    assert made.path.stem == "model_int8"
    assert made.before.value == 100.0
    assert made.after.value > 85
    assert made.within
    assert made.test is not None
    assert made.test[0].value == 100.0
    wanted = small()(images()).detach().numpy()
    (y,) = fresh_answers(made.runtime, made.path, [images()])
    error = np.abs(y - wanted).max() / np.abs(wanted).max()
    assert 1e-5 < error < 0.25
    assert made.parity.max_error == pytest.approx(error, rel=0.01)


def test_parity_json_says_what_int8_costs_and_what_to_ship(made: Quantized) -> None:
    folder = made.path.parent
    entry = read_parity(folder)[f"{made.format}_int8"]
    assert read_parity(folder)[made.format]["status"] == "equal"
    assert entry["source"] == source_digest(small())
    assert entry["top1"]["after"] == made.after.value
    assert entry["tolerance"] == pytest.approx(2 * entry["max_error"])
    assert {name: file_digest(folder / name) for name in entry["files"]} == entry["files"]
    assert set(entry["files"]) == {path.name for path in made.files}
    assert entry["speed"]["int8_is"] in ("faster", "slower", "no difference")
    assert (entry["ship"] == made.float_path.name) == (entry["speed"]["int8_is"] == "slower")
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_every_layer_is_compared_under_its_own_name(made: Quantized) -> None:
    layers = [one.layer.rpartition("/")[0] for one in made.layers]
    assert sorted(layers) == ["", "head", "inner", "stem"]  # the sum is the network's own
    assert all(one.error is not None and 1e-4 < one.error < 0.3 for one in made.layers)
    assert not made.kept


def test_an_int8_file_holds_the_facts_of_the_float_file_and_no_others(made: Quantized) -> None:
    facts = [facts_in(path) for path in (made.float_path, made.path)]
    assert facts[0] == facts[1]
    assert facts[0]["source"] == source_digest(small())


def facts_in(path: Path) -> dict[str, str]:
    if path.suffix == ".onnx":
        import onnx

        return {one.key: one.value for one in onnx.load(path).metadata_props}
    import openvino

    return dict(openvino.Core().read_model(path).get_rt_info(["slimcnn"]).astype(dict))


@pytest.mark.parametrize("name", NAMES)
def test_a_kept_layer_computes_in_float(name: str, tmp_path: Path) -> None:
    engine = engines[name].value()
    net, x = small(), images(16)
    (file,) = export(net, EXAMPLE, engine.format, out=tmp_path)
    stem = next(layer for layer in engine.layers(file.path) if layer.startswith("stem/"))
    rows = (x.numpy(),)
    whole = engine.outputs(file.path, [stem])(rows)[stem]
    errors = []
    for keep in ((), (stem,)):
        engine.write(file.path, tmp_path / "tried", rows, None, keep)
        made = engine.outputs(engine.files(tmp_path / "tried")[0], [stem])(rows)[stem]
        errors.append(np.abs(made - whole).max())
    assert errors[0] > 1e-3
    assert errors[1] < 1e-5


class Fake(Engine):
    """Its files are lists of the layers in float."""

    title, format, packages, extra = "Fake", "onnx", (), ""

    def layers(self, source: Path) -> tuple[str, ...]:
        return tuple("abcdefgh")

    def write(self, source: Path, path: Path, calibration: Any, batch: int | None, keep: Any) -> None:
        self.files(path)[0].write_text(json.dumps(sorted(keep)))

    def outputs(self, path: Path, layers: Any) -> Any:
        raise NotImplementedError


def searched(loss: Callable[[set[str]], int], folder: Path, monkeypatch: pytest.MonkeyPatch, max_drop: float) -> Any:
    """Search on files that lose `loss(layers in float)` of 100 answers; h hurts most, a least."""
    monkeypatch.setattr(keeping_module, "sensitivities", lambda work, layers, _: {x: ord(x) for x in layers})
    judged: list[int] = []

    def judge(path: Path) -> Accuracy:
        keep = set(json.loads(path.read_text()))
        judged.append(len(keep))
        return Accuracy.of(np.arange(100) >= loss(keep))

    work = Work(Fake(), folder, folder, (), None, Accuracy.of(np.ones(100, bool)), judge, lambda _: nn.Identity(), min)
    return search(work, tuple("abcdefgh"), max_drop, lambda *_: None), judged


def test_the_fewest_layers_stay_in_float_the_most_sensitive_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept, known), judged = searched(lambda keep: 9 - 2 * len(keep), tmp_path, monkeypatch, 3.0)
    assert kept.layers == ("h", "g", "f")
    assert kept.drop == 3.0
    assert judged == [0, 1, 2, 4, 3]
    assert set(known) == set("abcdefgh")


def test_nothing_stays_in_float_and_nothing_is_measured_where_int8_is_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept, known), judged = searched(lambda keep: 2, tmp_path, monkeypatch, 2.0)
    assert (kept.layers, known, judged) == ((), {}, [0])


def test_trials_of_single_layers_use_fewer_samples_where_they_are_large() -> None:
    small, large = (np.zeros((300, 3, side, side), np.uint8) for side in (32, 256))
    counts = [len(probes((rows,), PROBE, PROBE_VALUES, batch)[0]) for rows in (small, large) for batch in (None, 6)]
    assert counts == [64, 66, 10, 12]


def test_at_most_half_of_the_layers_stay_in_float_and_the_best_miss_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept, _), judged = searched(lambda keep: abs(len(keep) - 2) + 50, tmp_path, monkeypatch, 1.0)
    assert judged == [0, 1, 2, 4]
    assert len(kept.layers) == 2
    assert kept.drop == 50.0


def test_a_miss_is_said_and_the_float_file_stays_the_product(tmp_path: Path) -> None:
    net, x, told = small(), images(16), []
    found = quantize(
        net, EXAMPLE, out=tmp_path, images=x, engine="onnxruntime", max_drop=-1.0, seconds=0.01, say=told.append
    )
    assert not found.within
    assert found.ship == found.float_path == tmp_path / "model.onnx"
    assert "ship model.onnx: int8 loses" in told[-1]
    assert found.path.exists()
    entry = read_parity(tmp_path)["onnx_int8"]
    assert (entry["top1"]["within"], entry["ship"]) == (False, "model.onnx")
    assert all(one.sensitivity is not None for one in found.layers)


def test_int8_of_maps_states_pixel_accuracy_and_never_top1(tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()
    labeled = answered(net, images(16))
    quantize(
        net, EXAMPLE, out=tmp_path, images=labeled[0], engine="onnxruntime", validation=labeled, test=labeled, **QUICK
    )
    entry = read_parity(tmp_path)["onnx_int8"]
    assert entry["pixel_accuracy"]["before"] == entry["test_pixel_accuracy"]["before"] == 100
    assert not [name for name in entry if "top1" in name]


def test_without_labels_answers_that_differ_from_float_count_as_lost(tmp_path: Path) -> None:
    net, x = small(), images(32)
    found = quantize(net, EXAMPLE, out=tmp_path, images=x, engine="onnxruntime", **QUICK)
    y = open_in("onnxruntime", found.path, 1)(x)
    same = (y.argmax(1) == net(x).argmax(1)).float().mean().item()
    assert not found.labels
    assert found.after.value == pytest.approx(100 * same)
    assert read_parity(tmp_path)["onnx_int8"]["top1"]["against"] == "answers in float"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(0, 3, 8, 8), "no calibration images"),
        ([], "no calibration images"),
        (torch.zeros(4, 3, 9, 9), r"images must have the shape of the example \(nx3x8x8\); found"),
        (torch.full((4, 3, 8, 8), float("nan")), "4 of 4 calibration images contain NaN or infinite values"),
        (
            torch.cat([images(2), images(2) / 0]),
            "2 of 4 calibration images contain NaN or infinite values, the first at index 2",
        ),
        (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), "give the normalization"),
    ],
    ids=["none", "no tensors", "wrong size", "NaN", "infinite", "pixels without normalization"],
)
def test_bad_calibration_images_are_refused_in_one_line_before_anything_is_written(
    given: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message) as refusal:
        quantize(small(), EXAMPLE, out=tmp_path / "out", images=given, engine="onnxruntime")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_unknown_engines_missing_packages_and_impossible_fine_tuning_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownName, match="unknown engine 'ncnf': did you mean 'nncf'"):
        quantize(small(), EXAMPLE, out=tmp_path, images=images(4), engine="ncnf")
    with pytest.raises(ExportError, match=r"onnxruntime.* does not support fine-tuning: choose nncf"):
        quantize(small(), EXAMPLE, out=tmp_path, images=images(4), engine="onnxruntime", fine_tune=print)
    for name in NAMES:
        one = engines[name].value
        monkeypatch.setattr(one, "packages", ("no_such_package",))
        with pytest.raises(ExportError, match=rf"needs no_such_package: pip install 'slimcnn\[{one.extra}\]'"):
            one().check(name)


def test_a_network_without_scores_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"returns \(\d+, 1, 6, 6\) instead of scores \(n, classes\)"):
        quantize(nn.Conv2d(3, 1, 3), EXAMPLE, out=tmp_path, images=images(4), engine="onnxruntime")


def test_labels_must_be_as_many_as_images(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="8 images have 3 labels"):
        quantize(small(), EXAMPLE, out=tmp_path, images=images(8), engine="onnxruntime",
                 validation=(images(8), torch.zeros(3, dtype=torch.int64)))  # fmt: skip


def test_a_float_file_of_the_same_network_is_used_with_its_fixed_batch_and_its_pixels(tmp_path: Path) -> None:
    net, normal = small(), Normalization((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    pixels = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8)
    example = torch.zeros(2, 3, 8, 8)
    (file,) = export(
        net, example, out=tmp_path, images=pixels, normalization=normal, bake_normalization=True, dynamic_batch=False
    )
    before = file.path.read_bytes()
    found = quantize(net, example, out=tmp_path, images=pixels, normalization=normal, engine="onnxruntime", **QUICK)
    assert file.path.read_bytes() == before
    assert found.calibrated_on == 8
    assert found.speed.batch == 2
    there = open_in("onnxruntime", found.path, 1)(pixels[:2])
    assert (there.argmax(1) == net(normal(pixels[:2])).argmax(1)).all()


def test_images_to_judge_by_are_converted_some_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def recorded(example: Any, given: Any, *more: Any, **options: Any) -> list[Tensor]:
        sizes.append(len(given) if isinstance(given, Tensor) else len(given[0]))
        return samples_of(example, given, *more, **options)

    monkeypatch.setattr(float_file_module, "samples_of", recorded)
    pixels = torch.randint(0, 256, (300, 3, 8, 8), dtype=torch.uint8)
    labeled = (pixels, torch.zeros(300, dtype=torch.int64))
    quantize(
        small(), EXAMPLE, out=tmp_path, images=pixels[:20], normalization=Normalization((0.5,) * 3, (0.25,) * 3),
        engine="onnxruntime", validation=labeled, test=labeled, **QUICK,
    )  # fmt: skip
    assert max(sizes) == COMPARED
    assert sizes.count(COMPARED) == 1, "the sample of the parity check"
    assert max(size for size in sizes if size != COMPARED) == AT_ONCE


def test_the_float_file_of_another_network_is_refused(tmp_path: Path) -> None:
    known = {"files": {"model.onnx": ""}, "status": "equal", "images": 8, "max_error": 0.0}
    record(tmp_path, "onnx", {"source": "another", **known})
    with pytest.raises(ExportError, match="export of another network"):
        quantize(small(), EXAMPLE, out=tmp_path, images=images(8), engine="onnxruntime", **QUICK)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in NAMES])
def test_two_inputs_are_quantized_together(name: str, tmp_path: Path) -> None:
    def run(n: Net, image: Tensor, gain: Tensor) -> Tensor:
        return n.head((n.conv(image) * gain[:, :, None, None]).mean((2, 3)))

    net = Net(run, conv=nn.Conv2d(3, 4, 3), head=nn.Linear(4, 3)).eval()
    example = {"image": EXAMPLE, "gain": torch.zeros(1, 4)}
    x, gain = images(16), torch.rand(16, 4) + 0.5
    found = quantize(net, example, out=tmp_path, images=[x, gain], engine=name, **QUICK)
    y = open_in(found.runtime, found.path, 1)(x, gain)
    assert torch.allclose(y, net(x, gain).detach(), atol=0.1)


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [([0.8, 0.81, 0.79] * 30, "faster"), ([1.2, 1.3, 1.1] * 30, "slower"), ([1.0, 1.3, 0.75] * 30, "no difference"),
     ([0.99, 0.985, 0.995] * 30, "no difference")],
)  # fmt: skip
def test_differences_below_the_noise_are_no_differences(ratios: list[float], verdict: str) -> None:
    found = speed_of(np.array([[2.0, 2.0 * ratio] for ratio in ratios]), 1, 1, "openvino")
    assert found.verdict == verdict
    assert found.ratio[0] <= found.ratio[1] <= found.ratio[2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # NNCF compiles its kernels in a pool that it does not close
def test_a_fine_tuned_file_replaces_int8_after_training_where_it_loses_less(tmp_path: Path) -> None:
    net, x = small(), images(64)
    called = []

    def fine_tune(simulated: nn.Module) -> None:
        called.append(simulated)
        optimizer = torch.optim.Adam(simulated.parameters(), 1e-3)
        with torch.no_grad():
            wanted = net(x)
        for _ in range(30):
            loss = (simulated(x) - wanted).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    # A label that float gets wrong and int8 could get right by luck alone would be no loss: all are float's own.
    found = quantize(net, EXAMPLE, out=tmp_path, images=x, engine="nncf", validation=answered(net, x), max_drop=-1.0,
                     fine_tune=fine_tune, seconds=0.01)  # fmt: skip
    assert len(called) == 1
    assert found.after.value > 90
    engine = engines["nncf"].value()
    engine.write_trained(called[0], EXAMPLE, found.float_path, tmp_path / "trained")
    path = engine.files(tmp_path / "trained")[0]
    assert engine.layers(path) == engine.layers(found.float_path)
    with torch.no_grad():
        expected = called[0].eval()(x)
    assert torch.allclose(open_in("openvino", path, 1)(x), expected, atol=0.1 * expected.abs().max().item())
    assert path.with_suffix(".bin").stat().st_size < 0.6 * found.float_path.with_suffix(".bin").stat().st_size


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # NNCF compiles its kernels in a pool that it does not close
def test_a_bare_sequential_is_fine_tuned_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()
    (file,) = export(net, EXAMPLE, "openvino", out=tmp_path)
    engine, x = engines["nncf"].value(), images(16)
    simulated = engine.simulated(net, EXAMPLE, (x.numpy(),))
    engine.write_trained(simulated, EXAMPLE, file.path, tmp_path / "trained")
    path = engine.files(tmp_path / "trained")[0]
    assert engine.layers(path) == engine.layers(file.path)
    with torch.no_grad():
        expected = net(x)
    assert torch.allclose(open_in("openvino", path, 1)(x), expected, atol=0.1 * expected.abs().max().item())


def test_every_engine_writes_a_known_format() -> None:
    assert {entry.value.format for entry in engines} <= {entry.name for entry in formats}


def test_a_layer_whose_output_is_the_networks_is_compared_too(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5, bias=False)).eval()
    (file,) = export(net, torch.zeros(1, 3, 2, 2), "openvino", out=tmp_path)
    (layer,) = nncf._layers(nncf._read(file.path))
    x = torch.randn(1, 3, 2, 2)
    found = nncf._opened_at(file.path, layer.get_friendly_name())((x.numpy(),))
    assert np.allclose(found, net(x).detach().numpy(), atol=1e-5)
