"""The page of filter norms: what was kept, how far from all, for every layer and criterion."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from scipy.stats import ks_2samp, wasserstein_distance

import slimcnn
from slimcnn.cli import main
from slimcnn.distributions import norms_kept
from slimcnn.reporting.choices import Choice, LayerNorms, render_choices

CRITERIA = ["fpdf", "l2", "fpgm"]


def layers() -> list[LayerNorms]:
    torch.manual_seed(0)
    model = slimcnn.build("resnet8")
    graph = slimcnn.trace(model, torch.zeros(1, 1, 8, 8))
    return norms_kept(model, graph, CRITERIA, slimcnn.Target(ratio=0.5))


def test_every_layer_that_loses_filters_has_every_criterion_with_distances_that_scipy_finds_too() -> None:
    found = layers()
    assert {layer.layer for layer in found} >= {"layer1.0.conv1", "layer3.0.conv2", "conv1"}
    for layer in found:
        assert [choice.criterion for choice in layer.choices] == CRITERIA
        mean = sum(layer.original) / len(layer.original)
        for choice in layer.choices:
            assert set(choice.kept) <= set(layer.original)
            assert choice.ks == pytest.approx(ks_2samp(choice.kept, layer.original).statistic)
            assert choice.w1 == pytest.approx(wasserstein_distance(choice.kept, layer.original) / mean)


def test_the_page_names_every_layer_and_distance_and_refers_to_nothing_outside() -> None:
    found = layers()
    page = render_choices("resnet8", "ratio = 0.5", found)
    for layer in found:
        assert f"<h2>{layer.layer}</h2>" in page
    assert page.count("<svg") == len(found) * len(CRITERIA)
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert page == render_choices("resnet8", "ratio = 0.5", found)


def test_names_from_outside_are_escaped() -> None:
    layer = LayerNorms("<b>layer", (1.0, 2.0), (Choice("<i>mine", (1.0,), 0.5, 0.3),))
    page = render_choices("<script>x", "ratio", [layer])
    assert not re.search(r"<script>|<b>|<i>mine", page)


@pytest.mark.parametrize("residual", ["inner", "scatter"])
def test_the_command_writes_the_page_and_tells_the_numbers(
    residual: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "norms.html"
    line = f"slimcnn norms --model resnet8 --criteria fpdf,l2 --residual {residual} --json --out {out}"
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    told = json.loads(capsys.readouterr().out)
    assert [choice["criterion"] for choice in told[0]["choices"]] == ["fpdf", "l2"]
    assert (len(told) > 4) == (residual == "scatter")
    assert "layer2.0.conv1" in out.read_text()
