"""One size of a curve is a network like that of a run: it is opened, exported and shown by the name of its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import slimcnn
from slimcnn.errors import RunError
from slimcnn.playground import contents, playground_of
from slimcnn.reporting import storing
from slimcnn.running import recipe_from, run
from slimcnn.running.exporting import subject_of
from slimcnn.running.opening import open_run
from slimcnn.show import SILENT


@pytest.fixture(scope="module")
def curve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "curve"
    torch.manual_seed(0)
    weights = slimcnn.save(slimcnn.build("resnet8", in_channels=1), folder.parent / "net.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storing, "render", lambda report: report.title)
        run(recipe_from({
            "network": {"weights": str(weights)}, "data": {"name": "digits", "limit": 60}, "curve": [0.75, 0.5],
            "steps": [{"step": "prune", "criterion": "l2", "scope": "local"}], "out": str(folder),
            "latency_seconds": 0.01,
        }), show=SILENT)  # fmt: skip
    return folder


def test_a_size_is_opened_with_its_own_network_and_the_data_of_the_run(curve: Path) -> None:
    macs = [
        slimcnn.measure(open_run(curve / name).model, torch.zeros(1, 1, 8, 8)).macs
        for name in ("macs-0.75", "macs-0.5")
    ]
    assert macs[1] < macs[0]
    state = open_run(curve / "macs-0.5")
    saved = slimcnn.load(curve / "macs-0.5" / "compressed.safetensors")
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(state.model.eval()(x), saved.eval()(x))
    assert len(state.data.test) == 60


def test_a_size_is_exported_into_its_own_folder_and_shown(curve: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert subject_of(curve / "macs-0.5").home == curve / "macs-0.5"
    monkeypatch.setattr(contents, "exported", lambda *_: (b"onnx of a network", 1e-7))
    what = playground_of(curve / "macs-0.5", samples=2)
    assert (len(what.networks), len(what.samples)) == (2, 2)


def test_the_folder_of_the_whole_curve_is_refused_with_the_folders_of_its_sizes(curve: Path) -> None:
    with pytest.raises(RunError, match=r"pass the folder of one of them: .*macs-0.5, .*macs-0.75"):
        open_run(curve)
