"""A weights file fits exactly or changes nothing; what it is wrong with is said in one line; its code never runs."""

import argparse
import collections
import datetime
import os
import pickle
import types
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from slimcnn.errors import WeightsError
from slimcnn.models import build, load_weights


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def weights() -> dict[str, Tensor]:
    torch.manual_seed(7)
    return {
        name: torch.randn_like(tensor) if tensor.is_floating_point() else torch.tensor(5)
        for name, tensor in network().state_dict().items()
    }


def equals(model: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items() if name in state)


def test_a_published_file_of_safetensors_loads_and_keeps_its_metadata(tmp_path: Path) -> None:
    file = tmp_path / "resnet20.safetensors"
    original = build("resnet20")
    # as published: no counters of batches, and no parameters of the shortcuts
    state = {name: tensor for name, tensor in original.state_dict().items() if "num_batches" not in name}
    save_file(state, file, metadata={"top1": "91.73"})
    torch.manual_seed(1)
    model = build("resnet20")
    assert not equals(model, state)
    info = load_weights(model, file)
    assert equals(model, original.state_dict())
    assert (info.tensors, info.metadata, info.nesting, info.prefix) == (97, {"top1": "91.73"}, (), "")


@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin", ".th", ".ckpt", ".tar"])
@pytest.mark.parametrize(
    "nesting",
    [(), ("state_dict",), ("model",), ("net",), ("model_state_dict",), ("state_dict_ema",), ("model", "state_dict")],
)
def test_pickled_files_are_unwrapped(tmp_path: Path, ending: str, nesting: tuple[str, ...]) -> None:
    content: dict[str, Any] = weights()
    for key in reversed(nesting):
        content = {key: content, "epoch": 3}
    torch.save(content, tmp_path / f"file{ending}")
    model = network()
    info = load_weights(model, str(tmp_path / f"file{ending}"))
    assert equals(model, weights())
    assert info.nesting == nesting
    assert info.metadata == {}


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "_orig_mod.module."])
def test_a_common_prefix_is_taken_off(tmp_path: Path, prefix: str) -> None:
    save_file({prefix + name: tensor for name, tensor in weights().items()}, tmp_path / "file.safetensors")
    model = network()
    assert load_weights(model, tmp_path / "file.safetensors").prefix == prefix
    assert equals(model, weights())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_prefix_that_the_network_has_itself_stays(tmp_path: Path, prefix: str) -> None:
    state = {f"model.{name}": tensor for name, tensor in weights().items()}
    save_file({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "file.safetensors")
    outer = nn.Module()
    outer.model = network()
    assert load_weights(outer, tmp_path / "file.safetensors").prefix == prefix
    assert equals(outer, state)


def test_a_shared_parameter_needs_only_one_of_its_names(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    state = {"0.weight": torch.ones(2, 2), "0.bias": torch.ones(2), "1.bias": torch.ones(2)}
    save_file(state, tmp_path / "file.safetensors")
    load_weights(model, tmp_path / "file.safetensors")
    assert torch.equal(model.state_dict()["1.weight"], torch.ones(2, 2))


def test_half_precision_files_load_into_float_networks(tmp_path: Path) -> None:
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights().items()}
    save_file(half, tmp_path / "file.safetensors")
    model = network()
    load_weights(model, tmp_path / "file.safetensors")
    assert model[0].weight.dtype == torch.float32  # type: ignore[index]
    assert equals(model, {name: tensor.to(weights()[name].dtype) for name, tensor in half.items()})


def without(*names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights().items() if name not in names}


MISFITS: dict[str, tuple[dict[str, Tensor], str]] = {
    "missing": (without("0.bias", "3.weight"), r"2 of 9 names missing from the file \(0.bias, 3.weight\)"),
    "unexpected": (
        weights() | {f"x{i}": torch.ones(1) for i in range(5)},
        r"5 of 14 names unknown .*\(x0, x1, x2, ...\)",
    ),
    "shape": (weights() | {"3.weight": torch.ones(10, 4)}, r"1 tensor differs \(3.weight is 10x4 and should be 2x4\)"),
    "scalar": (weights() | {"3.bias": torch.tensor(1.0)}, r"3.bias is a scalar and should be 2"),
    "kind": (weights() | {"3.bias": torch.ones(2, dtype=torch.int8)}, r"3.bias is int8 and should be float32"),
    "nan": (
        weights() | {"0.bias": torch.tensor([1.0, float("nan"), float("inf"), 0.0])},
        r"0.bias has 2 of 4; .*diverged",
    ),
    "all other": ({"w": torch.ones(1)}, r"8 of 9 names missing .*1 of 1 names unknown to the network \(w\)"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_file_that_does_not_fit_changes_nothing(tmp_path: Path, case: str) -> None:
    state, complaint = MISFITS[case]
    save_file(state, tmp_path / "file.safetensors")
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match=complaint) as refusal:
        load_weights(model, tmp_path / "file.safetensors")
    assert "\n" not in str(refusal.value)
    assert str(tmp_path / "file.safetensors") in str(refusal.value)
    assert equals(model, before)


def write_truncated(path: Path, save: Any) -> None:
    save(weights(), path)
    path.write_bytes(path.read_bytes()[:-100])


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "page.safetensors").write_text("<html>not found</html>")
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "empty.pth").touch()
    (tmp_path / "weights.h5").touch()
    write_truncated(tmp_path / "cut.safetensors", save_file)
    write_truncated(tmp_path / "cut.pth", torch.save)
    for name, complaint in {
        "nowhere.pth": "no weights file",
        "folder.safetensors": "it is a folder",
        "page.safetensors": "is truncated or not a safetensors file",
        "empty.safetensors": "is truncated or not a safetensors file",
        "cut.safetensors": "is truncated or not a safetensors file",
        "page.pth": "is damaged or was not written by torch.save",
        "empty.pth": "is damaged or was not written by torch.save",
        "cut.pth": "is damaged or was not written by torch.save",
        "weights.h5": "unknown file extension: weights are .safetensors, or .pt",
    }.items():
        with pytest.raises(WeightsError, match=complaint) as refusal:
            load_weights(network(), tmp_path / name)
        assert "\n" not in str(refusal.value)


class Bomb:
    """Leaves a file behind if it is ever unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


class Shell:
    """Runs a command of the shell if it is ever unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("mkdir exploded",)


HARMLESS = {
    "argparse": argparse.Namespace(lr=0.1, output_dir=PurePosixPath("runs"), resume=PureWindowsPath("C:/runs")),
    "types": types.SimpleNamespace(epochs=3),
    "path": Path("runs/1"),
    "numpy": {"top1": np.float64(91.5), "epochs": np.int64(3), "losses": np.zeros(3), "kind": np.dtype("float32")},
    "datetime": [datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), datetime.timedelta(3)],
    "version": torch.__version__,
    "ordered": collections.OrderedDict(a=1),
    "counter": collections.Counter("ab"),
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_training_programs_store_beside_the_weights_is_passed_over(tmp_path: Path, kind: str) -> None:
    torch.save({"model": weights(), "args": HARMLESS[kind], "epoch": 3}, tmp_path / "file.pth")
    model = network()
    assert load_weights(model, tmp_path / "file.pth").nesting == ("model",)
    assert equals(model, weights())


def test_checkpoints_of_torchvisions_references_and_of_timms_script_load(tmp_path: Path) -> None:
    model, arguments = network(), argparse.Namespace(data="imagenet", lr=0.5, device="cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4])
    average = torch.optim.swa_utils.AveragedModel(model)
    torchvision = {
        "model": weights(), "optimizer": optimizer.state_dict(), "lr_scheduler": schedule.state_dict(), "epoch": 3,
        "args": arguments, "model_ema": average.state_dict(),
    }  # fmt: skip
    timm = {
        "epoch": 3, "arch": "resnet18", "state_dict": weights(), "optimizer": optimizer.state_dict(), "version": 2,
        "args": arguments, "state_dict_ema": model.state_dict(), "metric": 71.0,
    }  # fmt: skip
    for content in (torchvision, timm):
        torch.save(content, tmp_path / "file.pth")
        loaded = network()
        load_weights(loaded, tmp_path / "file.pth")
        assert equals(loaded, weights())
    torch.save({"model_ema": average.state_dict()}, tmp_path / "file.pth")
    load_weights(loaded, tmp_path / "file.pth")
    assert equals(loaded, model.state_dict())


@pytest.mark.parametrize(
    "content",
    [
        Bomb(),
        Shell(),
        {"state_dict": weights(), "args": Bomb()},
        {"state_dict": weights(), "args": argparse.Namespace(data=Shell())},
        {"state_dict": weights(), "args": collections.OrderedDict(a=Shell())},
        nn.Linear(1, 1),
    ],
)
def test_code_in_a_file_is_refused_and_never_run(tmp_path: Path, content: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match="cannot be read without unpickling code: it contains") as refusal:
        load_weights(network(), tmp_path / "file.pth")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "exploded").exists()


def test_a_harmless_name_gives_access_to_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may call what is allowed with any arguments, and ask for its attributes: nothing comes of it."""
    monkeypatch.chdir(tmp_path)
    shell = b"(Vmkdir exploded\ntR."
    for program in (
        b"cargparse\nNamespace.__init__.__globals__\n" + shell,
        b"cargparse\n_os.system\n" + shell,
        b"cpathlib\nos.system\n" + shell,
        b"cnumpy\ndtype.__new__\n" + shell,
        b"cargparse\nNamespace\n)R}(V__class__\nVx\nub(Vmkdir exploded\ntR.",
    ):
        torch.save({"state_dict": weights()}, tmp_path / "file.pth", _use_new_zipfile_serialization=False)
        legacy = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
        (tmp_path / "file.pth").write_bytes(legacy + b"\x80\x02" + program)
        with pytest.raises(WeightsError) as refusal:
            load_weights(network(), tmp_path / "file.pth")
        assert "\n" not in str(refusal.value)
        assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (torch.ones(3), "contains a Tensor, not a state dict"),
        ([torch.ones(3)], "contains a list, not a state dict"),
        ({}, "not a plain state dict: it contains nothing"),
        ({"epoch": 3, "lr": 0.1}, "not a plain state dict: it contains epoch, lr besides or instead of tensors"),
    ],
)
def test_files_without_a_state_dict_are_refused(tmp_path: Path, content: Any, complaint: str) -> None:
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=complaint):
        load_weights(network(), tmp_path / "file.pth")
