"""Files in the caches of timm and torchvision, as if their published weights had been downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

TIMM = "test_resnet.r160_in1k"
"""A network of timm with 0.5 M parameters, 1000 classes and images of 160 x 160."""


def empty_caches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let both packages use an empty cache, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "huggingface"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))

    def no_network(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("torch.hub.urlopen", no_network)


def put_timm(folder: Path) -> tuple[nn.Module, Path]:
    """Put weights of `TIMM` where a user without a network would put them; return their network and the file."""
    import timm

    torch.manual_seed(3)
    network = timm.create_model(TIMM).eval()
    path = folder / f"huggingface/models--timm--{TIMM}/snapshots/main/model.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), path)
    return network, path


def put_torchvision(name: str, folder: Path, **arguments: object) -> tuple[nn.Module, Path]:
    """Put weights of a network of torchvision into the cache of torch.hub; return the network and the file."""
    from torchvision import models

    torch.manual_seed(3)
    network = models.get_model(name, **arguments).eval()
    path = folder / "torch/hub/checkpoints" / models.get_model_weights(name).DEFAULT.url.rpartition("/")[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return network, path
