"""Published weights come from the caches of their packages, as tensors only; offline, an error says where they go."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import slimcnn
from published import TIMM, empty_caches, put_timm, put_torchvision
from slimcnn.errors import ModelError, UnknownName, WeightsError
from slimcnn.models import preprocessing, pretrained


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty_caches(tmp_path, monkeypatch)


def outputs(network: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        return network(torch.ones(1, *shape))


def test_weights_of_timm_are_those_in_its_cache(tmp_path: Path) -> None:
    theirs, _ = put_timm(tmp_path)
    found = pretrained(f"timm:{TIMM}")
    assert torch.equal(outputs(found, (3, 64, 64)), outputs(theirs, (3, 64, 64)))
    assert found.architecture == {"model": f"timm:{TIMM}", "arguments": {}}
    assert preprocessing(found).input == (3, 160, 160)
    assert not any(module.training for module in found.modules())
    gray = pretrained(f"timm:{TIMM}", in_channels=1)
    assert outputs(gray, (1, 64, 64)).shape == (1, 1000)
    again = slimcnn.load(slimcnn.save(gray, tmp_path / "gray.safetensors"))
    assert torch.equal(outputs(again, (1, 64, 64)), outputs(gray, (1, 64, 64)))


@pytest.mark.parametrize("name", ["squeezenet1_1", pytest.param("googlenet", marks=pytest.mark.slow)])
def test_weights_of_torchvision_are_those_in_its_cache_and_a_checkpoint_repeats_them(name: str, tmp_path: Path) -> None:
    from torchvision import models

    put_torchvision(name, tmp_path, **({"init_weights": False} if name == "googlenet" else {}))
    theirs = models.get_model(name, weights="DEFAULT").eval()  # googlenet: with settings of its own
    found = pretrained(f"torchvision:{name}")
    assert torch.equal(outputs(found, (3, 224, 224)), outputs(theirs, (3, 224, 224)))
    again = slimcnn.load(slimcnn.save(found, tmp_path / "net.safetensors"))
    assert torch.equal(outputs(again, (3, 224, 224)), outputs(theirs, (3, 224, 224)))


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        (f"timm:{TIMM}", f"huggingface/models--timm--{TIMM}/snapshots/main/model.safetensors"),
        ("torchvision:squeezenet1_1", "torch/hub/checkpoints/squeezenet1_1-b8a52dc0.pth"),
    ],
)
def test_without_a_network_one_line_says_where_to_put_which_file(
    spec: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(WeightsError) as caught:
        pretrained(spec)
    said = str(caught.value)
    assert said.startswith(f"the published weights of {spec} cannot be downloaded from ")
    assert said.endswith(f": put the file at {tmp_path / place}")
    assert "\n" not in said
    assert capsys.readouterr().out == "", "stdout may be read as JSON"


def test_a_hub_that_cannot_be_reached_is_noticed_at_the_first_try(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    asked: list[str] = []

    def unreachable(url: str) -> None:
        asked.append(url)
        raise OSError("Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    with pytest.raises(WeightsError, match=r"Name or service not known.*: put the file at "):
        pretrained(f"timm:{TIMM}")
    assert len(asked) == 1


class Runs:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def test_code_in_a_cached_file_does_not_run(tmp_path: Path) -> None:
    _, path = put_torchvision("squeezenet1_1", tmp_path)
    path.write_bytes(pickle.dumps({"classifier.1.bias": Runs(tmp_path / "ran")}, protocol=2))
    with pytest.raises(WeightsError, match=f"cannot be loaded from {path}: .*delete it, and it is downloaded again"):
        pretrained("torchvision:squeezenet1_1")
    assert not (tmp_path / "ran").exists()


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    _, path = put_timm(tmp_path)
    path.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=f"cannot be loaded from {path}: SafetensorError"):
        pretrained(f"timm:{TIMM}")


def test_settings_that_no_constructor_takes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_timm(tmp_path)
    monkeypatch.setattr("timm.create_model", _with_another_eps)
    with pytest.raises(WeightsError, match="has settings that its constructor does not take"):
        pretrained(f"timm:{TIMM}")


def _with_another_eps(name: str, pretrained: bool = False, **_: object) -> nn.Module:
    from timm.models import create_model

    found = create_model(name)
    for module in found.modules():
        if pretrained and isinstance(module, nn.BatchNorm2d):
            module.eps = 0.1
    return found


@pytest.mark.parametrize(
    ("spec", "arguments", "error", "said"),
    [
        ("resnet20", {}, ModelError, "resnet20 has no published weights: give a weights file, or take timm:NAME"),
        ("my_net:build", {}, ModelError, "my_net:build, your own function, has no published weights"),
        ("resnet99", {}, UnknownName, "unknown network 'resnet99'"),
        ("timm:resnet99", {}, UnknownName, "unknown timm network 'resnet99'"),
        ("timm:test_resnet.mine", {}, UnknownName, f"unknown tag of a timm network.*{TIMM}"),
        ("timm:resnet14t.c3_in1k", {"num_classes": 3}, ModelError, "leave num_classes out; the step train replaces"),
        ("timm:resnet33ts_nothing", {}, UnknownName, "unknown timm network"),
        ("timm:resnetv2_152", {}, ModelError, "timm:resnetv2_152 has no published weights; networks that have: "),
        ("torchvision:squeezenet1_1", {"in_channels": 1}, ModelError, "takes 3 input channels, not 1"),
    ],
)
def test_what_has_no_published_weights_is_told_what_is_possible(
    spec: str, arguments: dict[str, int], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        pretrained(spec, **arguments)
