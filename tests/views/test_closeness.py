"""How close several networks find classes: maps, differences, and the closest pairs."""

from __future__ import annotations

import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import slimcnn
from slimcnn import views
from slimcnn.cli import main
from slimcnn.datasets import Normalization, load_dataset
from slimcnn.distillation.closeness import closeness_of, closest_pairs


def run(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_it_is_the_mean_log_ratio_over_the_images_of_a_class() -> None:
    torch.manual_seed(0)
    data = load_dataset("digits")
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found = views.closeness({"one": network}, data).data["networks"]["one"]
    logits = network(data.normalization(data.validation.pixels)).detach() / 4
    for i, j in ((3, 8), (0, 0), (9, 1)):
        own = logits[data.validation.labels == i]
        assert found[i][j] == pytest.approx(float((own[:, j] - own[:, i]).mean()), abs=1e-3)


def test_a_class_without_images_has_no_closeness_and_more_logits_than_classes_do_not_matter() -> None:
    logits = torch.tensor([[4.0, 0.0, 8.0, 99.0], [0.0, 8.0, 4.0, 99.0]])
    network = nn.Linear(4, 4, bias=False)
    network.weight.data.copy_(torch.eye(4))
    found = closeness_of(network, [(logits[:1], torch.tensor([0])), (logits[1:], torch.tensor([1]))], 3)
    assert found == ((0.0, -1.0, 1.0), (-2.0, 0.0, -1.0), (0.0, 0.0, 0.0))


def test_a_network_is_looked_at_in_eval_mode_and_is_in_its_own_mode_afterwards() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.9))
    network[2].eval()
    network[0].eval()
    modes = [module.training for module in network.modules()]
    data = load_dataset("digits").limit(60)
    first, again = (views.closeness({"one": network}, data).data for _ in range(2))
    assert first == again
    assert [module.training for module in network.modules()] == modes


def test_every_network_gets_images_normalized_as_it_expects() -> None:
    torch.manual_seed(0)
    data = load_dataset("digits").limit(60)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    other = Normalization((0.0,), (1.0,))
    both = views.closeness({"one": network, "two": network}, data, {"two": other}).data["networks"]
    alone = views.closeness({"two": network}, replace(data, normalization=other)).data["networks"]
    assert both["two"] == alone["two"]
    assert both["one"] != both["two"]


def test_the_closest_pairs_of_the_first_network_come_first_beside_those_of_all() -> None:
    teacher, student = ((0.0, -1.0), (-2.0, 0.0)), ((0.0, -3.0), (-2.5, 0.0))
    found = closest_pairs(("cat", "dog"), {"teacher": teacher, "student": student})
    assert found == [("cat", "dog", (-1.0, -3.0)), ("dog", "cat", (-2.0, -2.5))]


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
    assert "other class" in told
    assert re.search(r"^ *\d +\d +−?\d\S* +−?\d\S* +−?\d\S* *$", told, re.MULTILINE)
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
    assert "rename one" in capsys.readouterr().err
    assert run(f"slimcnn closeness {tmp_path / 'b.safetensors'} --data digits", monkeypatch) == 2
    assert "no weights file" in capsys.readouterr().err
    plain = tmp_path / "plain.safetensors"
    save_file({"weight": torch.zeros(2)}, plain)
    assert run(f"slimcnn closeness {plain} --data digits", monkeypatch) == 2
    assert "is not a slimcnn checkpoint" in capsys.readouterr().err
