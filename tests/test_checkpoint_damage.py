"""A damaged or forged checkpoint is refused in one line; it never loads as another network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import slimcnn
from slimcnn.checkpoints import is_checkpoint, read_architecture, read_information
from slimcnn.errors import CheckpointError, SlimcnnError, WeightsError
from slimcnn.running.loading import load_subject


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return slimcnn.save(slimcnn.build("resnet8"), tmp_path / "net.safetensors")


def flip(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def edited(path: Path, edit: Callable[[dict[str, Any]], Any], **metadata: str) -> Path:
    """Write the file again with another description; the tensors stay."""
    with safe_open(path, framework="pt") as file:
        old = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    content = json.loads(old["slimcnn"])
    new = edit(content)
    save_file(tensors, path, metadata=old | {"slimcnn": new if isinstance(new, str) else json.dumps(content)})
    return path


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_one_flipped_bit_in_the_tensors_is_refused(share: float, path: Path) -> None:
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    flip(path, header + int(share * (path.stat().st_size - header - 1)), bit=3)
    with pytest.raises(CheckpointError, match="digest") as error:
        slimcnn.load(path)
    assert "\n" not in str(error.value)
    assert isinstance(slimcnn.load(path, verify=False), nn.Module)
    with pytest.raises(WeightsError, match="digest"):
        slimcnn.load_weights(slimcnn.build("resnet8"), path)


def test_the_digest_covers_names_shapes_and_types(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        metadata, tensors = dict(file.metadata()), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    name = next(name for name, tensor in tensors.items() if tensor.dim() == 4 and tensor.shape[0] == tensor.shape[1])
    tensors[name] = tensors[name].transpose(0, 1).contiguous().reshape(tensors[name].shape)
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(CheckpointError, match="digest"):
        slimcnn.load(path)


def test_a_file_without_a_digest_loads_with_a_note(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        description = file.metadata()["slimcnn"]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={"slimcnn": description, "format": "pt"})
    with pytest.warns(UserWarning, match="has no digest"):
        slimcnn.load(path)


@pytest.mark.parametrize(
    ("layer", "attribute", "value"),
    [
        ("conv", "in_channels", 0), ("conv", "out_channels", 7), ("conv", "groups", 0), ("conv", "groups", 3),
        ("conv", "in_channels", "3"), ("linear", "in_features", 1), ("bn", "num_features", 10**30),
        ("bn", "num_features", None),
    ],
)  # fmt: skip
def test_sizes_that_contradict_the_tensors_are_refused(layer: str, attribute: str, value: object, path: Path) -> None:
    net = slimcnn.build("resnet8")
    kinds = {"conv": nn.Conv2d, "linear": nn.Linear, "bn": nn.BatchNorm2d}
    name = next(name for name, module in net.named_modules() if isinstance(module, kinds[layer]))
    edited(path, lambda content: content["sizes"][name].update({attribute: value}))
    with pytest.raises(CheckpointError, match=r"contradict|another network") as error:
        slimcnn.load(path)
    assert "\n" not in str(error.value)


SHAPES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no architecture": lambda content: content.pop("architecture") and None,
    "architecture no table": lambda content: content.update(architecture=[1]),
    "model no text": lambda content: content.update(architecture={"model": 3, "arguments": {}}),
    "arguments no table": lambda content: content["architecture"].update(arguments=[1, 2]),
    "argument spec": lambda content: content["architecture"].update(arguments={"spec": 1}),
    "argument name": lambda content: content["architecture"].update(arguments={"name": 1}),
    "argument of another type": lambda content: content["architecture"]["arguments"].update(num_classes={"a": 1}),
    "unknown network": lambda content: content["architecture"].update(model="nonsense"),
    "sizes no table": lambda content: content.update(sizes={"": [1]}),
    "unhashable alias": lambda content: content.update(aliases={"a": ["b"]}),
    "channels_last no names": lambda content: content.update(channels_last=[{}]),
    "infinite format": lambda content: content.update(format=float("inf")),
    "text format": lambda content: content.update(format="1"),
    "information no table": lambda content: content.update(information=[]),
    "reusing no list": lambda content: content.update(reusing=[[[[]]]]),
    "relating no table": lambda content: content.update(relating=5),
    "placing no table": lambda content: content.update(placing=[[0]]),
    "list": lambda content: "[]",
    "deep": lambda content: "[" * 100_000 + "]" * 100_000,
    "deep table": lambda content: '{"format": 1, "sizes": ' + '{"a":' * 100_000 + "1" + "}" * 100_001,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_description_of_another_shape_is_a_checkpoint_error_of_one_line(shape: str, path: Path) -> None:
    edited(path, SHAPES[shape])
    with pytest.raises(CheckpointError) as error:
        slimcnn.load(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    for read in (is_checkpoint, read_information, read_architecture):
        try:
            read(path)
        except CheckpointError as found:
            assert "\n" not in str(found)  # noqa: PT017


@pytest.mark.parametrize("model", ["NONSENSE", "resnet20"])
def test_a_checkpoint_of_another_network_than_the_named_one_is_refused(model: str, path: Path) -> None:
    with pytest.raises(SlimcnnError, match=model):
        load_subject(model, path)
    assert isinstance(load_subject("resnet8", path)[0], nn.Module)
