"""The shortcuts of `trace` save time only: without them the graph is the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

import slimcnn
from slimcnn.graph import ChannelGraph, fast
from slimcnn.models import networks

OURS = sorted(entry.name for entry in networks if entry.facts.get("image_size", 32) <= 32)[:13]
TORCHVISION = ["vgg11_bn", "resnet18", "densenet121", "mobilenet_v3_small", "shufflenet_v2_x0_5", "googlenet"]
TIMM = ["res2net50_26w_4s", "skresnet18", "ghostnet_100", "hrnet_w18_small", "regnetx_002", "mixnet_s"]


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    library, _, rest = name.rpartition(":")
    if library == "torchvision":
        extra = {"init_weights": False} if rest == "googlenet" else {}
        return getattr(torchvision.models, rest)(weights=None, **extra), torch.rand(1, 3, 64, 64)
    if library == "timm":
        return timm.create_model(rest), torch.rand(1, 3, 64, 64)
    return slimcnn.build(name), torch.rand(1, 3, 32, 32)


def described(graph: ChannelGraph) -> Any:
    """Everything in a graph, with arrays as lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.tolist()
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return [plain(getattr(value, field.name)) for field in dataclasses.fields(value)]
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        return [plain(one) for one in value] if isinstance(value, tuple | list) else value

    parts = ("groups", "locked", "contractions", "parameters", "stored", "sizes", "bundles", "fingerprint", "batch")
    memory = graph.timeline.at(np.zeros(len(graph.groups), dtype=np.int64), 4)
    return [plain(getattr(graph, part)) for part in parts], memory.tolist()


NAMES = [*OURS, *(f"torchvision:{name}" for name in TORCHVISION), *(f"timm:{name}" for name in TIMM)]


def test_there_are_25_networks() -> None:
    assert len(NAMES) == 25


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [name if number % 5 == 0 else pytest.param(name, marks=pytest.mark.slow) for number, name in enumerate(NAMES)],
)
def test_the_plain_way_gives_the_same_graph(name: str) -> None:
    model, example = build(name)
    quick = slimcnn.trace(model, example)
    with fast.off():
        plain = slimcnn.trace(model, example)
    assert described(quick) == described(plain)
