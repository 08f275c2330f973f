"""Whole detectors as files: one image in, its boxes, labels and scores out, compared with the network's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from tiny_tasks import HEIGHT, WIDTH, dataset, network, patterns, sure_detector, write_voc
from torch import Tensor, nn

import slimcnn
from at_hand import Net
from command_line import call
from slimcnn import steps
from slimcnn.errors import ExportError
from slimcnn.exporting import ExportedFile, formats, how_to_run, open_in, read_parity, writing
from slimcnn.show import SILENT
from slimcnn.training import judge

EXAMPLE = [torch.zeros(3, HEIGHT, WIDTH)]
DETECTORS = [entry.name for entry in formats if entry.value.detectors]
OTHERS = [entry.name for entry in formats if not entry.value.detectors]
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportedFile]:
    """A detector's file in each format that can hold one, compared on images with and without detections."""
    out = tmp_path_factory.mktemp("exported")
    files = slimcnn.export(sure_detector(), EXAMPLE, DETECTORS, out=out, images=patterns())
    return {file.format: file for file in files}


@pytest.mark.parametrize("name", DETECTORS)
def test_a_file_detects_what_the_network_detects(name: str, exported: dict[str, ExportedFile]) -> None:
    file, net = exported[name], sure_detector()
    assert (file.parity.status, file.parity.images, file.parity.detections_agree) == ("equal", 32, 100.0)
    assert file.parity.max_error is not None
    assert file.parity.max_error < 1e-4
    entry = read_parity(file.path.parent)[name]
    assert (entry["detections_agree"], entry["agreement"], entry["facts"]["batch"]) == (100.0, None, 1)
    assert entry["facts"]["outputs"] == ["boxes", "scores", "labels"]
    numbers = set()
    opened = open_in(file.runtime, file.path, 1)
    for image in patterns():
        with torch.no_grad():
            (expected,) = net([image])
        numbers.add(len(expected["scores"]))
        for mine, there in zip(expected.values(), opened(image[None]), strict=True):
            assert torch.allclose(mine.float(), there.float(), atol=1e-3)
    assert {0, 1, 2} < numbers
    assert entry["detections"] > 0


def test_the_file_takes_one_image_and_names_its_outputs(exported: dict[str, ExportedFile]) -> None:
    graph = onnx.load(exported["onnx"].path).graph
    (given,) = graph.input
    assert (given.name, [dim.dim_value for dim in given.type.tensor_type.shape.dim]) == ("input", [1, 3, HEIGHT, WIDTH])
    assert [one.name for one in graph.output] == ["boxes", "scores", "labels"]


@pytest.mark.parametrize("name", DETECTORS)
def test_the_two_lines_of_python_run_a_detector(name: str, exported: dict[str, ExportedFile]) -> None:
    file = exported[name]
    lines = how_to_run(name, file.path, read_parity(file.path.parent)[name])
    assert lines[1].endswith(f"# image: float32 (1, 3, {HEIGHT}, {WIDTH})")
    held: dict[str, Any] = {"image": patterns()[-1:].numpy()}
    exec("\n".join(lines), held)
    with torch.no_grad():
        (expected,) = sure_detector()([patterns()[-1]])
    assert held["boxes"].shape == tuple(expected["boxes"].shape)
    assert torch.allclose(torch.from_numpy(held["scores"].copy()), expected["scores"], atol=1e-4)


@pytest.mark.parametrize("name", OTHERS)
def test_formats_that_cannot_hold_a_detector_refuse_in_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=rf"\({name}\) does not support detectors.*choose onnx") as refusal:
        slimcnn.export(network("detection"), EXAMPLE, name, out=tmp_path)
    assert "\n" not in str(refusal.value)
    with pytest.raises(ExportError, match="does not support detectors"):
        writing.write_model(network("detection"), EXAMPLE, name, tmp_path / "model")


@pytest.fixture
def written_before(exported: dict[str, ExportedFile], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every export writes the ONNX file of the fixture above, to save time."""
    known = exported["onnx"].path.read_bytes()
    monkeypatch.setattr(writing, "prepare", lambda *_, **options: None)
    monkeypatch.setattr(
        formats["onnx"].value, "write", lambda _, contents, path, options: path.with_suffix(".onnx").write_bytes(known)
    )


@pytest.mark.usefixtures("written_before")
def test_without_any_detection_nothing_is_called_equal(tmp_path: Path) -> None:
    said: list[str] = []
    (file,) = slimcnn.export(
        sure_detector(), EXAMPLE, "onnx", out=tmp_path, images=patterns()[12:16], say=said.append
    )  # fmt: skip
    assert (file.parity.status, file.parity.detections, file.parity.max_error) == ("unproven", 0, None)
    assert said[0] == "  a detector: its files take one image at a time, (1, c, h, w)"
    assert "unproven: nothing was detected in any of 4 images" in said[1]
    assert read_parity(tmp_path)["onnx"]["status"] == "unproven"


@pytest.mark.usefixtures("written_before")
def test_a_file_with_other_detections_is_an_error_and_is_kept_aside(tmp_path: Path) -> None:
    other = sure_detector()
    other.score_thresh = 0.45
    with pytest.raises(ExportError, match=r"outputs differ .*other detections in .* images; kept as .*mismatch.onnx"):
        slimcnn.export(other, EXAMPLE, "onnx", out=tmp_path, images=list(patterns()))
    assert {path.name for path in tmp_path.iterdir()} == {"model.mismatch.onnx"}


@pytest.mark.usefixtures("written_before")
def test_without_images_a_detector_is_compared_on_values_from_0_to_1(tmp_path: Path) -> None:
    (file,) = slimcnn.export(sure_detector(), (EXAMPLE,), "onnx", out=tmp_path)
    assert (file.parity.status, file.parity.images) == ("equal", 16)
    (drawn,) = writing.samples_of(EXAMPLE, None, None, pixels=False, from_0_to_1=True)
    assert 0 <= drawn.min() < drawn.max() <= 1


@pytest.mark.slow
def test_pixels_and_a_batch_as_example_give_the_same_file_for_one_image(tmp_path: Path) -> None:
    data = dataset("detection")
    (file,) = slimcnn.export(
        sure_detector(), torch.zeros(2, 3, HEIGHT, WIDTH), "onnx", out=tmp_path, images=data.test.pixels,
        normalization=data.normalization, bake_normalization=True,
    )  # fmt: skip
    assert (file.parity.status, file.facts["input"]) == ("equal", [1, 3, HEIGHT, WIDTH])
    (given,) = onnxruntime.InferenceSession(file.path).get_inputs()
    assert (given.type, given.shape) == ("tensor(uint8)", [1, 3, HEIGHT, WIDTH])


def test_a_list_of_images_beside_another_argument_is_refused(tmp_path: Path) -> None:
    net = Net(lambda n, images, gain: n.conv(images[0][None]) * gain, conv=nn.Conv2d(3, 4, 3))
    with pytest.raises(ExportError, match=r"give \[image\] alone"):
        slimcnn.export(net, (EXAMPLE, torch.ones(1)), "onnx", out=tmp_path)


def test_a_dict_of_boxes_without_a_list_keeps_numbered_outputs(tmp_path: Path) -> None:
    def run(n: Net, x: Tensor) -> dict[str, Tensor]:
        y = n.conv(x).mean((2, 3))
        return {"boxes": y, "labels": y + 1, "scores": y + 2}

    (file,) = slimcnn.export(Net(run, conv=nn.Conv2d(3, 4, 3)), torch.zeros(1, 3, 8, 8), "onnx", out=tmp_path)
    session = onnxruntime.InferenceSession(file.path)
    assert [one.name for one in session.get_outputs()] == ["output0", "output1", "output2"]
    assert session.get_inputs()[0].shape[0] == "batch"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a detector that finds boxes in the test images, with its files."""
    out = tmp_path_factory.mktemp("runs") / "detector"
    chain = [steps.Prune(macs=0.9, scope="local"), steps.Export(to=tuple(DETECTORS))]
    slimcnn.chain(sure_detector(), dataset("detection"), chain, out=out, latency_seconds=0.05, show=SILENT)
    return out


@pytest.mark.slow
def test_the_step_compares_on_test_images_and_the_report_says_how_many_agree(run_folder: Path) -> None:
    known = read_parity(run_folder)
    assert [(one["status"], one["images"]) for one in known.values()] == [("equal", 12)] * 2
    assert known["onnx"]["facts"]["compared_on"] == "squares, test"
    report = json.loads((run_folder / "report.json").read_text(encoding="utf-8"))
    (section,) = (one for one in report["sections"] if one["title"] == "Exported files")
    titles = [column["title"] for column in section["blocks"][0]["columns"]]
    assert "detections agree, %" in titles
    assert "top-1 agrees, %" not in titles
    assert "boxes, scores, labels = network.run(None" in section["blocks"][1]["text"]
    assert "pixels / 255" in section["blocks"][1]["text"]


@pytest.mark.slow
def test_the_files_of_a_run_are_verified_again(run_folder: Path) -> None:
    found = slimcnn.verify(run_folder, data=dataset("detection"), model=sure_detector())
    assert not found.failed, found.failed
    checks = [one for one in found.checks if one.what == "onnx outputs match the network"]
    assert checks
    for check in checks:
        assert check.status == "passed"
        assert "detections agree" in check.why


@pytest.mark.slow
def test_a_benchmark_measures_map_in_the_runtime_and_refuses_batches() -> None:
    data, net = dataset("detection"), sure_detector()
    found = slimcnn.benchmark(
        {"net": net}, torch.zeros(1, 3, HEIGHT, WIDTH), images=data.test, normalization=data.normalization,
        task="detection", classes=2, runtimes=["onnxruntime"], batches=(1, 4), seconds=0.02, processes=0,
    )  # fmt: skip
    one, four = found.rows
    assert one.score == pytest.approx(judge(net, data.test, data, device="cpu").score, abs=0.01)
    assert "one image at a time; batch size 4 cannot run" in four.why


@pytest.mark.slow
def test_the_command_line_exports_an_untrained_detector_and_says_that_nothing_is_proven(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = write_voc(tmp_path / "data"), tmp_path / "run"
    code, told, err = call(
        f"compress --task detection --data voc:{folder} --model tiny_tasks:voc_detector --pretrain 1 --macs 0.9 "
        f"--recover none --scope local --deterministic --to onnx --out {out}",
        capsys, monkeypatch,
    )  # fmt: skip
    assert code == 0, err
    assert "unproven: nothing was detected" in told
    assert "nothing was detected in any of 10 images" in (out / "report.html").read_text(encoding="utf-8")
    code, told, err = call(f"export {out} --to openvino", capsys, monkeypatch)
    assert code == 0, err
    assert "boxes, scores, labels = network(image).to_tuple()" in told


SCORES = re.compile(r"(cls_logits|cls_score|classification_head\.module_list\.\d\.1)$")
BOXES = re.compile(r"(bbox_pred|bbox_reg|regression_head\.module_list\.\d\.1)$")
"""Layers of torchvision's detectors that make scores, and shifts and sizes of boxes."""


def spread_answers(net: nn.Module, images: Tensor) -> None:
    """Make random weights whose answers differ from place to place, so that rounding decides few of them."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    net.backbone.train()(images)
    net.eval()
    done = set()

    def standardize(spread: float) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        def hook(module: nn.Module, _: Any, output: Tensor) -> Tensor | None:
            if module in done:
                return None
            done.add(module)
            rows = output.movedim(1, -1).flatten(0, -2)
            mean, std = rows.mean(0), rows.std(0, correction=0) / spread
            std[std == 0] = 1  # a map of one pixel
            module.weight.div_(std.view(-1, *[1] * (module.weight.dim() - 1)))
            module.bias.copy_((module.bias - mean) / std)
            return ((rows - mean) / std).view(output.movedim(1, -1).shape).movedim(-1, 1)

        return hook

    parts = dict(net.named_modules())
    handles = [part.register_forward_hook(standardize(1.0)) for name, part in parts.items() if SCORES.search(name)]
    handles += [part.register_forward_hook(standardize(0.2)) for name, part in parts.items() if BOXES.search(name)]
    net([images[0]])
    for handle in handles:
        handle.remove()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn",
             "ssdlite320_mobilenet_v3_large"],
)  # fmt: skip
def test_detectors_of_torchvision_are_exported_whole(name: str, tmp_path: Path) -> None:
    from torchvision.models import detection

    size = {} if name.startswith("ssdlite") else {"min_size": 64, "max_size": 96}
    net = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=4, **size).eval()
    images = torch.rand(4, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    if not name.startswith("fasterrcnn"):  # its proposals for spread scores hang on rounding
        with torch.no_grad():
            spread_answers(net, images)
    (file,) = slimcnn.export(net, [images[0]], "onnx", out=tmp_path, images=images)
    assert file.parity.detections
    assert file.parity.status == "equal", str(file.parity)
