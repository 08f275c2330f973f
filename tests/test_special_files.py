"""Files that are no regular files, or hold something strange, are refused in one line; nothing blocks."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import slimcnn
from slimcnn.checkpoints import is_checkpoint, load
from slimcnn.errors import SlimcnnError, WeightsError
from slimcnn.files import kind_of
from slimcnn.pruning import Plan
from slimcnn.reporting import read_report
from slimcnn.running.recipe import read_recipe

GRAPH: Any = None  # not reached: the file is refused before it is compared with the graph


@pytest.mark.parametrize(
    ("reads", "name"),
    [
        (lambda path: Plan.load(path, GRAPH), "plan.json"), (read_recipe, "recipe.toml"), (load, "n.safetensors"),
        (is_checkpoint, "n.safetensors"), (lambda path: slimcnn.load_weights(nn.Linear(1, 1), path), "n.pt"),
        (read_report, "report.json"),
    ],
)  # fmt: skip
def test_a_fifo_is_refused_and_does_not_block(reads: Callable[[Path], Any], name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(SlimcnnError, match="not a regular file") as error:
        reads(tmp_path / name)
    assert "\n" not in str(error.value)
    assert kind_of(tmp_path / name) == "special"


def test_a_state_dict_that_contains_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["state_dict"] = content
    torch.save(content, tmp_path / "n.pt")
    with pytest.raises(WeightsError, match="contains itself"):
        slimcnn.load_weights(nn.Linear(2, 2), tmp_path / "n.pt")


STRANGE = {
    "sparse": torch.eye(2).to_sparse(),
    "meta": torch.empty(2, 2, device="meta"),
    "float8": torch.eye(2).to(torch.float8_e4m3fn),
    "int64": torch.eye(2).long(),
    "bool": torch.eye(2).bool(),
    "complex": torch.eye(2).to(torch.complex64),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_tensors_without_plain_values_are_refused_as_weights(kind: str, tmp_path: Path) -> None:
    torch.save(OrderedDict(weight=STRANGE[kind], bias=torch.zeros(2)), tmp_path / "n.pt")
    net = nn.Linear(2, 2)
    before = net.weight.detach().clone()
    with pytest.raises(WeightsError, match=kind) as error:
        slimcnn.load_weights(net, tmp_path / "n.pt")
    assert "\n" not in str(error.value)
    assert torch.equal(net.weight, before)
