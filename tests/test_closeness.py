"""How close several networks find classes: maps, differences, and the closest pairs in words."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import slimcnn
from slimcnn.cli import main
from slimcnn.closeness import closeness_of
from slimcnn.datasets import load_dataset
from slimcnn.reporting.closeness import render_closeness


def run(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_it_is_the_mean_log_ratio_over_the_images_of_a_class() -> None:
    torch.manual_seed(0)
    data = load_dataset("digits")
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found = closeness_of(network, data.validation, data.normalisation, data.classes)
    logits = network(data.normalisation(data.validation.pixels)).detach() / 4
    for i, j in ((3, 8), (0, 0), (9, 1)):
        own = logits[data.validation.labels == i]
        assert found[i][j] == pytest.approx(float((own[:, j] - own[:, i]).mean()), abs=1e-3)


def test_the_command_compares_checkpoints_and_says_pairs_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for name, width in (("teacher", 1.0), ("kd", 0.5), ("scale", 0.5)):
        torch.manual_seed(len(name))
        paths.append(tmp_path / f"{name}.safetensors")
        slimcnn.save(slimcnn.build("resnet8", width=width), paths[-1])
    out = tmp_path / "closeness.html"
    line = f"slimcnn closeness {' '.join(map(str, paths))} --data digits --limit 60 --out {out}"
    assert run(line, monkeypatch) == 0
    told = capsys.readouterr().out
    assert re.search(r"\w+ is taken for \w+: -?\d+\.\d\d \(teacher\), -?\d+\.\d\d \(kd\), -?\d+\.\d\d \(scale\)", told)
    page = out.read_text()
    assert page.count("<svg") == 6  # three maps, what students differ by from the teacher, and from each other
    assert "kd - teacher" in page
    assert "scale - teacher" in page
    assert "scale - kd" in page
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert run(line + " --json", monkeypatch) == 0
    assert set(json.loads(capsys.readouterr().out)["networks"]) == {"teacher", "kd", "scale"}


def test_checkpoints_that_cannot_be_told_apart_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    slimcnn.save(slimcnn.build("resnet8"), path)
    assert run(f"slimcnn closeness {path} {path} --data digits", monkeypatch) == 2
    assert "give each another" in capsys.readouterr().err
    assert run(f"slimcnn closeness {tmp_path / 'b.safetensors'} --data digits", monkeypatch) == 2
    assert "no weights file" in capsys.readouterr().err
    plain = tmp_path / "plain.safetensors"
    save_file({"weight": torch.zeros(2)}, plain)
    assert run(f"slimcnn closeness {plain} --data digits", monkeypatch) == 2
    assert "is no checkpoint of slimcnn" in capsys.readouterr().err


def test_names_from_outside_are_escaped() -> None:
    matrix = ((0.0, -1.0), (-2.0, 0.0))
    page = render_closeness("<b>data", ("<i>a", "<u>b"), {"<script>x": matrix, "<s>y": matrix}, 9)
    assert not re.search(r"<script>|<b>data|<i>a|<u>b|<s>y", page)
