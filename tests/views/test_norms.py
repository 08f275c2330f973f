"""The page of filter norms: what was kept, how far from all, for every layer and criterion."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from statistics import fmean

import pytest
import torch
from scipy.stats import ks_2samp, wasserstein_distance
from torch import nn

import slimcnn
from slimcnn import views
from slimcnn.cli import main
from slimcnn.pruning import Plan
from slimcnn.pruning.norms import FilterNorms, norms_kept
from slimcnn.reporting import render_page

CRITERIA = ["fpdf", "l2", "fpgm"]


def look() -> views.View:
    torch.manual_seed(0)
    model = slimcnn.build("resnet8")
    graph = slimcnn.trace(model, torch.zeros(1, 1, 8, 8))
    return views.norms(model, graph, CRITERIA, slimcnn.Target(pruning_ratio=0.5), "resnet8")


def test_every_layer_that_loses_filters_has_every_criterion_with_distances_that_scipy_finds_too() -> None:
    found = look().data
    assert {layer["layer"] for layer in found} >= {"layer1.0.conv1", "layer3.0.conv2", "conv1"}
    for layer in found:
        assert [choice["criterion"] for choice in layer["choices"]] == CRITERIA
        mean = sum(layer["original"]) / len(layer["original"])
        for choice in layer["choices"]:
            assert set(choice["kept"]) <= set(layer["original"])
            assert choice["ks"] == pytest.approx(ks_2samp(choice["kept"], layer["original"]).statistic)
            assert choice["w1"] == pytest.approx(wasserstein_distance(choice["kept"], layer["original"]) / mean)


def test_means_are_those_of_all_layers_and_the_figure_shows_what_the_data_say() -> None:
    view = look()
    means, every = view.sections
    for name, ks, w1 in means.blocks[0].rows:
        found = [one for layer in view.data for one in layer["choices"] if one["criterion"] == name]
        assert (ks, w1) == (pytest.approx(fmean(f["ks"] for f in found)), pytest.approx(fmean(f["w1"] for f in found)))
    assert means.title == f"Mean over {len(view.data)} layers"
    assert every.blocks[0].data == {"layers": view.data}
    assert len(every.blocks[1].rows) == len(view.data) * len(CRITERIA)


def test_norms_of_filters_known_in_advance() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 1, 1, bias=False))
    net[0].weight.data.copy_(torch.tensor([3.0, -1.0, 4.0, -2.0]).reshape(4, 1, 1, 1))
    graph = slimcnn.trace(net, torch.zeros(1, 1, 8, 8))
    assert norms_kept(net, graph, Plan(graph.fingerprint, {"0": (1, 3)})) == [
        FilterNorms("0", "0", (3.0, 1.0, 4.0, 2.0), (3.0, 4.0))
    ]
    assert norms_kept(net, graph, Plan(graph.fingerprint, {})) == []
    (layer,) = views.norms(net, graph, ["l2"], slimcnn.Target(pruning_ratio=0.5)).data
    assert layer == {
        "layer": "0",
        "original": [3.0, 1.0, 4.0, 2.0],
        "choices": [{"criterion": "l2", "kept": [3.0, 4.0], "ks": 0.5, "w1": 1.0 / 2.5}],
    }


def test_the_page_names_every_layer_and_distance() -> None:
    view = look()
    page = render_page(view.title, view.headline, view.sections)
    for layer in view.data:
        assert layer["layer"] in page
    assert page.count("<svg") == len(view.data) * len(CRITERIA)


@pytest.mark.parametrize("residual", ["inner", "scatter"])
def test_the_command_writes_the_page_and_tells_the_numbers(
    residual: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "norms.html"
    line = (
        f"slimcnn norms --model resnet8 --criteria fpdf,l2 --pruning-ratio 0.5 --residual {residual} --json --out {out}"
    )
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    told = json.loads(capsys.readouterr().out)
    assert [choice["criterion"] for choice in told[0]["choices"]] == ["fpdf", "l2"]
    assert (len(told) > 4) == (residual == "scatter")
    assert "layer2.0.conv1" in out.read_text()
