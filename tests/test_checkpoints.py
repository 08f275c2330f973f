"""A checkpoint opens anywhere, and only if it is whole and ours."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import slimcnn
from at_hand import randomize, some_channels
from slimcnn.checkpoints import is_checkpoint, read_information
from slimcnn.errors import CheckpointError, RunError


def pruned(name: str, shape: tuple[int, ...], **arguments: object) -> nn.Module:
    net = slimcnn.build(name, **arguments)
    graph = slimcnn.trace(net, torch.zeros(1, *shape))
    return slimcnn.prune(
        net, graph, slimcnn.allocate(graph, slimcnn.score(net, graph, "l2"), slimcnn.Target(pruning_ratio=0.4))
    )


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("resnet20", {}), ("resnet20", {"shortcut": "B"}), ("vgg11", {"head": "512-10"}), ("resnet164", {"width": 0.5})],
)
def test_a_pruned_network_loads_by_its_file_alone_and_answers_bit_for_bit(
    name: str, arguments: dict[str, object], tmp_path: Path
) -> None:
    small = pruned(name, (3, 32, 32), **arguments).eval()
    x = torch.randn(2, 3, 32, 32)
    loaded = slimcnn.load(slimcnn.save(small, tmp_path / "net.safetensors"))
    assert torch.equal(loaded(x), small(x))
    assert [p.shape for p in loaded.parameters()] == [p.shape for p in small.parameters()]


def test_a_loaded_network_can_be_traced_and_pruned_again(tmp_path: Path) -> None:
    loaded = slimcnn.load(slimcnn.save(pruned("resnet20", (3, 32, 32)), tmp_path / "net.safetensors"))
    graph = slimcnn.trace(loaded, torch.zeros(1, 3, 32, 32))
    plan = slimcnn.allocate(graph, slimcnn.score(loaded, graph, "l1"), slimcnn.Target(macs=0.7))
    smaller = slimcnn.prune(loaded, graph, plan)
    again = slimcnn.load(slimcnn.save(smaller, tmp_path / "again.safetensors"))
    assert slimcnn.measure(again, graph.example).macs <= 0.7 * graph.macs()


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x0_5", "densenet121"])
def test_a_pruned_torchvision_network_loads_by_its_file_alone(name: str, tmp_path: Path) -> None:
    net = slimcnn.resolve(f"torchvision:{name}", num_classes=10)
    graph = slimcnn.trace(net, torch.zeros(1, 3, 64, 64))
    plan = slimcnn.allocate(graph, slimcnn.score(net, graph, "l2"), slimcnn.Target(pruning_ratio=0.5))
    small = slimcnn.prune(net, graph, plan, verify=False).eval()
    loaded = slimcnn.load(slimcnn.save(small, tmp_path / "net.safetensors"))
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(x), small(x))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.again.weight = self.first.weight
        self.register_buffer("scale", torch.ones(1, 4, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.again(self.first(x)) * self.scale


def test_ties_layout_and_buffers_that_state_dict_forgets_come_back(tmp_path: Path) -> None:
    net = Tied().to(memory_format=torch.channels_last).eval()
    net.scale.fill_(3.0)
    loaded = slimcnn.load(slimcnn.save(net, tmp_path / "net.safetensors"), Tied())
    assert loaded.again.weight is loaded.first.weight
    assert loaded.first.weight.is_contiguous(memory_format=torch.channels_last)
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(loaded(x), net(x))


def test_a_network_of_the_user_needs_a_fresh_original_and_leaves_it_alone(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 4))
    graph = slimcnn.trace(net, torch.zeros(1, 3, 8, 8))
    plan = slimcnn.allocate(graph, slimcnn.score(net, graph, "l1"), slimcnn.Target(pruning_ratio=0.5))
    small = slimcnn.prune(net, graph, plan)
    path = slimcnn.save(small, tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=r"pass a freshly built original"):
        slimcnn.load(path)
    fresh = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 4))
    assert slimcnn.load(path, fresh)[0].out_channels == 4
    assert fresh[0].weight.shape == (8, 3, 3, 3)


def test_a_file_may_not_choose_which_code_runs(tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    net.architecture = {"model": "os:abort", "arguments": {}}
    path = slimcnn.save(net, tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match="loading a checkpoint never runs user code"):
        slimcnn.load(path)


def test_information_travels_along(tmp_path: Path) -> None:
    path = slimcnn.save(slimcnn.build("resnet20"), tmp_path / "net.safetensors", information={"mean": [0.5]})
    assert read_information(path) == {"mean": [0.5]}
    assert is_checkpoint(path)


SAVES = """
import sys, torch, slimcnn
torch.manual_seed(0)
network = slimcnn.insert_relations(slimcnn.build("resnet8", in_channels=1), torch.zeros(1, 1, 8, 8))
facts = {"mean": [0.5], "std": [0.25], "top1": 91.0}
for number in range(4):
    slimcnn.save(network, f"{sys.argv[1]}-{number}", information=dict(sorted(facts.items(), reverse=number % 2)))
"""


def test_equal_networks_give_equal_bytes_in_every_process(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        command = [sys.executable, "-c", SAVES, str(tmp_path / seed)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": seed})
    first, *others = sorted(tmp_path.iterdir())
    assert len(others) == 7
    assert all(other.read_bytes() == first.read_bytes() for other in others)
    with safe_open(first, framework="pt") as file:  # other libraries ask for this entry
        assert file.metadata()["format"] == "pt"


@pytest.mark.parametrize("length", [0, 4, 200, 5000])
def test_a_truncated_file_is_refused(length: int, tmp_path: Path) -> None:
    path = slimcnn.save(slimcnn.build("resnet8"), tmp_path / "net.safetensors")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="truncated"):
        slimcnn.load(path)


def test_foreign_missing_newer_and_damaged_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no file"):
        slimcnn.load(tmp_path / "nothing.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not written by slimcnn"):
        slimcnn.load(tmp_path / "foreign.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "newer.safetensors", metadata={"slimcnn": json.dumps({"format": 99})})
    with pytest.raises(CheckpointError, match="upgrade"):
        slimcnn.load(tmp_path / "newer.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "damaged.safetensors", metadata={"slimcnn": '{"format": 1}'})
    with pytest.raises(CheckpointError, match="damaged description"):
        slimcnn.load(tmp_path / "damaged.safetensors")


def test_a_file_for_another_network_is_refused(tmp_path: Path) -> None:
    path = slimcnn.save(slimcnn.build("resnet8"), tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=r"another network: it lacks .*and holds"):
        slimcnn.load(path, nn.Linear(2, 2))


def test_a_folder_that_does_not_exist_and_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        slimcnn.save(slimcnn.build("resnet8"), tmp_path / "file" / "net.safetensors")


# --- stacks of edits --------------------------------------------------------------------------------------------------


def cut(net: nn.Module, example: Tensor) -> nn.Module:
    graph = slimcnn.trace(net, example)
    return slimcnn.prune(net, graph, some_channels(graph, 3))


def without_a_branch(net: nn.Module, example: Tensor) -> nn.Module:
    graph = slimcnn.trace(net, example)
    group = next(group for group in graph.groups if group.branch)
    return slimcnn.prune(net, graph, slimcnn.Plan(graph.fingerprint, {group.name: tuple(range(group.channels))}))


def trained(net: nn.Module, _: Tensor) -> nn.Module:
    """Change all weights, as distillation does."""
    changed = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return changed


EDITS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "prune": cut,
    "branch": without_a_branch,
    "train": trained,
    "reuse": lambda net, example: slimcnn.replace(net, slimcnn.feature_reuse("half"), example),
    "scatter": slimcnn.scatter,
    "relate": slimcnn.insert_relations,
    "gate": lambda net, example: slimcnn.insert_relations(net, example, "sample"),
    "fold": lambda net, _: slimcnn.fold_relations(net),
}
STACKS = {
    "resnet8": """reuse prune train prune; prune reuse prune; scatter prune prune; prune scatter prune scatter prune;
        relate prune fold relate prune fold; relate scatter prune train fold prune; prune reuse relate scatter prune;
        gate prune scatter prune; branch relate prune fold; reuse branch train prune; prune train prune""",
    "vgg11": "reuse prune train prune; prune reuse prune; relate prune fold train prune; prune reuse relate prune fold",
}


@pytest.mark.parametrize(
    ("name", "stack"), [(name, stack.strip()) for name, stacks in STACKS.items() for stack in stacks.split(";")]
)
def test_a_checkpoint_survives_every_stack_of_edits(name: str, stack: str, tmp_path: Path) -> None:
    """After every edit the network is saved, loaded by the file alone, and edited further."""
    side, arguments = (8, {}) if name == "resnet8" else (32, {"width": 0.25})
    net = slimcnn.build(name, in_channels=1, **arguments).eval()
    randomize(net)
    example, x = torch.zeros(1, 1, side, side), torch.randn(2, 1, side, side)
    for number, edit in enumerate(stack.split()):
        edited = EDITS[edit](net, example).eval()
        net = slimcnn.load(slimcnn.save(edited, tmp_path / f"{number}.safetensors"))
        assert torch.equal(net(x), edited(x)), f"after {edit} ({number})"
        again = slimcnn.save(net, tmp_path / "again.safetensors")
        assert again.read_bytes() == (tmp_path / f"{number}.safetensors").read_bytes()


def own_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


@pytest.mark.parametrize("stack", ["reuse prune train prune", "prune reuse prune", "relate prune fold prune"])
def test_a_checkpoint_of_a_users_own_network_survives_stacks_of_edits(stack: str, tmp_path: Path) -> None:
    net = own_network().eval()
    net.architecture = {"model": "their_package.nets:build", "arguments": {}}
    example, x = torch.zeros(1, 1, 8, 8), torch.randn(2, 1, 8, 8)
    for number, edit in enumerate(stack.split()):
        edited = EDITS[edit](net, example).eval()
        path = slimcnn.save(edited, tmp_path / f"{number}.safetensors")
        with pytest.raises(CheckpointError, match="loading a checkpoint never runs user code"):
            slimcnn.load(path)
        net = slimcnn.load(path, model=own_network())
        assert torch.equal(net(x), edited(x)), f"after {edit} ({number})"
