"""From a run's folder to the page; the exporter stands aside where it is not the point."""

from __future__ import annotations

import io
import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import browser, tab
from PIL import Image
from torch import nn

import slimcnn
from slimcnn.checkpoints import read_information
from slimcnn.cli import main
from slimcnn.datasets import Normalization
from slimcnn.errors import ModelError, RunError
from slimcnn.playground import Playground, contents, page, playground_of, render_playground
from slimcnn.reporting import storing
from slimcnn.steps import Prune


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose network was never trained: what it answers does not matter here."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    torch.manual_seed(0)
    net = slimcnn.build("resnet8", in_channels=1)
    data = slimcnn.load_dataset("digits").limit(60)
    steps = [Prune(macs=0.5, criterion="l2", scope="local")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storing, "render", lambda report: report.title)
        slimcnn.chain(net, data, steps, out=folder, show=slimcnn.show.SILENT, latency_seconds=0.1)
    return folder


@pytest.fixture
def _no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "exported", lambda *_: (b"onnx of a network", 1e-7))


@pytest.mark.usefixtures("_no_export")
def test_the_page_of_a_run_knows_its_networks_classes_numbers_and_test_images(finished: Path) -> None:
    what = playground_of(finished, samples=7)
    report = json.loads((finished / "report.json").read_text())
    assert [network.title for network in what.networks] == ["original", "compressed"]
    assert dict(what.networks[0].facts)["test top-1"] == f"{report['before']['top1']:.2f} %"
    assert "(× 0.50)" in dict(what.networks[1].facts)["MACs"]
    assert (what.classes, what.input) == (tuple("0123456789"), (1, 8, 8))
    assert what.normalization == slimcnn.load_dataset("digits").normalization
    test = slimcnn.load_dataset("digits").test
    assert len(what.samples) == 7
    for sample in what.samples:
        pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(sample.png))))[None]
        (place,) = (test.pixels == pixels).flatten(1).all(1).nonzero()[:1].flatten().tolist()
        assert what.classes[test.labels[place]] == sample.label


@pytest.mark.usefixtures("_no_export")
def test_an_int8_file_of_the_run_is_a_third_network(finished: Path, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path)
    (folder / "model_int8.onnx").write_bytes(b"int8")
    what = playground_of(folder)
    assert [(network.title, network.onnx) for network in what.networks][2] == ("compressed, int8", b"int8")


@pytest.mark.usefixtures("_no_export")
def test_without_the_dataset_the_page_has_no_samples_and_says_why(finished: Path, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path)
    recipe = (folder / "recipe.toml").read_text()
    (folder / "recipe.toml").write_text(recipe.replace('"digits"', '"/no/such/folder"'))
    what = playground_of(folder)
    assert what.samples == ()
    assert what.notes[0].startswith("No sample images: no folder /no/such/folder")


def copied(finished: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("report.json", "recipe.toml", "original.safetensors", "compressed.safetensors"):
        (folder / name).write_bytes((finished / name).read_bytes())
    return folder


def test_a_folder_without_a_finished_run_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no folder .*nowhere: pass the folder of a finished run"):
        playground_of(tmp_path / "nowhere")
    with pytest.raises(RunError, match="no report at"):
        playground_of(tmp_path)


def test_a_curve_is_refused_with_the_folders_of_its_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "reporting")
    from synthetic_reports import curve

    monkeypatch.setattr(storing, "render_curve", lambda report: report.title)
    storing.write_report(curve(), tmp_path)
    with pytest.raises(RunError, match=r"holds several sizes: show one of them: .*/0.8, .*/0.6, .*/0.4"):
        playground_of(tmp_path)


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (nn.Flatten(), (4, 2, 2), r"takes images \(4, 2, 2\): a browser provides gray"),
        (nn.Identity(), (1, 2, 2), r"returns \(1, 1, 2, 2\) for one image: the page needs a classifier"),
    ],
)
def test_what_a_browser_cannot_show_is_refused(network: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        contents._example(network, shape)


def test_networks_too_large_for_a_page_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny_networks import playground

    monkeypatch.setattr(page, "LARGEST", 1000)
    with pytest.raises(ModelError, match=r"a page holds at most 1\.000 kB"):
        render_playground(playground(), {})


def call(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["slimcnn", *shlex.split(command)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0


@pytest.mark.usefixtures("_no_export")
def test_the_command_opens_the_page_in_the_browser_unless_told_not_to(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)))
    call(f"show {finished} --out '{tmp_path}/a page' --json", monkeypatch)
    written = tmp_path / "a page" / "index.html"
    said = capsys.readouterr()
    assert json.loads(said.out) == {"page": str(written), "networks": ["original", "compressed"]}
    assert opened == [written.as_uri()]
    assert "no browser found: copy the page" in said.err
    call(f"show {finished} --out '{tmp_path}/a page' --no-open", monkeypatch)
    assert len(opened) == 1
    assert capsys.readouterr().out == f"page: {written}\n"


@pytest.mark.slow
def test_the_page_of_a_run_answers_what_its_checkpoints_answer(finished: Path, tmp_path: Path) -> None:
    program = browser()
    if program is None:
        pytest.skip("no Chromium on this machine")
    with pytest.MonkeyPatch.context() as patch:
        call(f"show {finished} --no-open", patch)
        patch.setattr(contents, "exported", lambda *_: (b"", 0.0))
        what = playground_of(finished)
    with tab(program, tmp_path / "profile") as view:
        view.visit((finished / "show" / "index.html").as_uri())
        view.wait("document.body?.dataset.shown == 1")
        for number, name in enumerate(("original", "compressed")):
            expected = probabilities(finished / f"{name}.safetensors", what)
            rows = f"[...document.querySelectorAll('#answers-{number} li')]"
            found = view.run(rows + ".map(row => [Number(row.dataset.class), Number(row.dataset.probability)])")
            assert found == [[place, pytest.approx(float(expected[place]), abs=1e-3)] for place, _ in found]
            assert found[0][0] == int(expected.argmax())


def probabilities(checkpoint: Path, what: Playground) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(what.samples[0].png))))[None, None]
    information = read_information(checkpoint)["normalization"]
    normalize = Normalization(tuple(information["mean"]), tuple(information["std"]))
    with torch.no_grad():
        return slimcnn.load(checkpoint)(normalize(pixels))[0].softmax(0)
