"""The comparison of compact networks: what is published beside what is counted and timed here."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from slimcnn.cli import main
from slimcnn.errors import ModelError, UnknownName
from slimcnn.measuring.runtimes import installed, onnx_of, open_in
from slimcnn.reporting.zoo import ZooRow, render_zoo
from slimcnn.zoo import compare, rows_of


def run(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_by_default_it_is_the_surveys_six_with_their_sizes() -> None:
    names = {row.network for row in rows_of()}
    families = {"mobilenet_v2", "shufflenet_v2", "igcv3", "shiftnet_a", "as_resnet_w50", "fe_net"}
    assert families <= names
    assert "xception" not in names
    assert {row.network for row in rows_of(everything=True)} > names
    with pytest.raises(UnknownName, match="did you mean 'mobilenet_v2'"):
        rows_of(["mobilenetv2"])


def test_networks_are_counted_and_timed_in_turns_in_every_runtime_that_is_asked_for() -> None:
    found = compare(rows_of(["shufflenet_v2"])[:2], runtimes=["eager"], threads=1, seconds=0)
    assert [one.params for one in found] == [1_366_792, 2_278_604]
    for one in found:
        time = one.latencies["eager"]
        assert (time.threads, time.batch, time.runtime) == (1, 1, "torch eager")
        assert time.median_ms > 0
    assert found[0].latencies["eager"].n == found[1].latencies["eager"].n


def test_the_command_prints_json_and_writes_a_page_with_a_picture_for_macs_and_for_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "zoo.html"
    line = f"slimcnn zoo shufflenet_v2 as_resnet_w32 --runtimes eager --seconds 0 --threads 1 --json --out {out}"
    assert run(line, monkeypatch) == 0
    told = json.loads(capsys.readouterr().out)
    assert {one["network"] for one in told} == {"shufflenet_v2", "as_resnet_w32"}
    active = next(one for one in told if one["network"] == "as_resnet_w32")
    assert (active["params"], active["published"]["top1"], active["family"]) == (901_256, 64.1, "shift")
    page = out.read_text()
    assert page.count("<svg") == 2
    assert "Top-1 against MACs" in page
    assert "Top-1 against torch eager" in page
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)


def test_a_runtime_that_is_not_there_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("slimcnn zoo igcv3 --runtimes tflite", monkeypatch) == 2
    error = capsys.readouterr().err
    assert "there is no runtime 'tflite' here: choose from eager" in error
    assert run("slimcnn zoo mobilnet", monkeypatch) == 2


def test_names_from_outside_are_escaped() -> None:
    row = ZooRow("<b>x", "shift", 1, 2, "<i>p", 50.0, "<u>s", "<s>n", (1.0,))
    page = render_zoo("<script>", ["<em>"], [row, row], "<b>here")
    assert not re.search(r"<script>|<b>|<i>p|<u>s|<s>n|<em>", page)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_other_runtimes_answer_as_the_network_does(runtime: str) -> None:
    if runtime not in installed():
        pytest.skip(f"{runtime} is not installed")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    x = torch.randn(2, 3, 9, 7)
    there = open_in(runtime, onnx_of(net, x), threads=1)(x)
    assert all(module.training for module in net.modules()), "the user's network is never changed"
    assert torch.allclose(there, net.eval()(x).detach(), atol=1e-4)


def test_what_cannot_be_exported_is_told_in_one_line() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum().item() > 0 else -x

    with pytest.raises(ModelError, match="Odd cannot be exported to ONNX") as refusal:
        onnx_of(Odd(), torch.ones(1, 3))
    assert "\n" not in str(refusal.value)
