"""No damaged file is read as something else: bits that flip, files that end early, and files of another kind.

A reader either refuses the file in one line, or returns what the undamaged file holds. Plans, recipes, reports and
parity.json are text that users may edit, and weights of other programs have no digest: here they may only not end in a
traceback, and in the folder of a finished run the manifest finds any change. Nothing reads certificate.json.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import slimcnn
from slimcnn.datasets import load_dataset
from slimcnn.errors import SlimcnnError
from slimcnn.exporting import read_parity
from slimcnn.manifest import differences, read_manifest
from slimcnn.models import load_weights
from slimcnn.reporting import read_report
from slimcnn.running import folder as disk
from slimcnn.running import read_recipe, recipe_from, run
from slimcnn.running.saving import read_state
from slimcnn.searching import Search, StudyStorage
from slimcnn.training import Training, fit

DAMAGES = 1000
FOREIGN: list[object] = [
    [],
    {},
    None,
    7,
    "text",
    [[]],
    {"slimcnn_plan": 1},
    {"format": 3},
    {"onnx": 1},
    [{"op_code": 0}],
]
GRID = Search(max_drop=40, pruning_ratios=(0.1, 0.3), refine=0)


@dataclass(frozen=True)
class Kind:
    """A kind of file: where one is, how it is read, and whether any change must be found."""

    path: str
    read: Callable[[Path], Any]
    """Reads the file in a copy of the folder; returns something that can be compared."""
    sealed: bool = True
    claimed: bool = False
    """Whether the manifest of a finished run finds any change."""


def tensors(model: nn.Module) -> list[Any]:
    return [(name, tensor.tolist()) for name, tensor in model.state_dict().items()]


def graph_and_digits(home: Path) -> Any:
    model = slimcnn.load(home / "run" / disk.ORIGINAL)
    return slimcnn.trace(model, torch.zeros(1, 1, 8, 8))


def state_of(home: Path) -> Any:
    """What a run that resumes reads of its last step."""
    done = disk.read_sealed(home / "run" / "2-recalibrate" / disk.DONE)
    state = read_state(home / "run", done, load_dataset("digits").limit(20))
    return [done, tensors(state.model), state.origin and state.origin.plan]


def training_state(home: Path) -> Any:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    epochs = fit(model, load_dataset("digits").limit(20), training=TRAINING, folder=home / "training")
    return [[(one.epoch, one.loss) for one in epochs], tensors(model)]


TRAINING = Training(epochs=1, layout="nchw", precision="32")


def weights(home: Path, name: str) -> Any:
    model = slimcnn.build("resnet8", in_channels=1)
    load_weights(model, home / name)
    return tensors(model)


class Remembered:
    """What a search journal holds. Lost entries do not change the winner: their points are evaluated again."""

    def __init__(self, base: float | None, outcomes: list[Any]) -> None:
        self.base, self.outcomes = base, outcomes

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Remembered)
        return self.base in (None, other.base) and all(one in other.outcomes for one in self.outcomes)


def searched(home: Path) -> Remembered:
    storage = StudyStorage.open(home / "search.log", "one", GRID)
    return Remembered(storage.get_attr("base"), [asdict(one) for one in storage.outcomes()])


KINDS = {
    "checkpoint": Kind("net.safetensors", lambda home: tensors(slimcnn.load(home / "net.safetensors"))),
    "weights": Kind("weights.safetensors", lambda home: weights(home, "weights.safetensors"), sealed=False),
    "pickled weights": Kind("weights.pt", lambda home: weights(home, "weights.pt"), sealed=False),
    "plan": Kind(
        "run/plan.json",
        lambda home: slimcnn.Plan.load(home / "run" / "plan.json", graph_and_digits(home)),
        sealed=False,
        claimed=True,
    ),
    "plan of a step": Kind("run/1-prune/plan.json", state_of),
    "recipe": Kind("run/recipe.toml", lambda home: read_recipe(home / "run/recipe.toml"), sealed=False, claimed=True),
    "report": Kind("run/report.json", lambda home: read_report(home / "run"), sealed=False, claimed=True),
    "run.json": Kind("run/run.json", lambda home: disk.read_sealed(home / "run" / "run.json")),
    "step.json": Kind("run/1-prune/step.json", lambda home: disk.settle(home / "run", places(home))),
    "done.json": Kind("run/2-recalibrate/done.json", state_of),
    "state of a training": Kind("training/state.pt", training_state),
    "journal of a search": Kind("search.log", searched),
    "parity": Kind("parity.json", lambda home: read_parity(home), sealed=False),
    "manifest": Kind("run/manifest.json", lambda home: read_manifest(home / "run")),
    "folder of images": Kind("pictures/cats/1.png", lambda home: pixels(home)),
}


def places(home: Path) -> list[disk.StepPlace]:
    steps = [home / "run" / name for name in ("1-prune", "2-recalibrate")]
    return [disk.StepPlace(step, json.loads((step / disk.DONE).read_text())["digest"]) for step in steps]


def pixels(home: Path) -> Any:
    data = load_dataset(str(home / "pictures"))
    return [part.pixels.tolist() for part in (data.train, data.validation, data.test)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one file of every kind."""
    home = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    net = slimcnn.build("resnet8", in_channels=1)
    slimcnn.save(net, home / "net.safetensors", information={"input": [1, 8, 8]})
    save_file(net.state_dict(), home / "weights.safetensors")
    torch.save(net.state_dict(), home / "weights.pt")
    steps = [{"step": "prune", "batches": 1}, {"step": "recalibrate", "images": 20}]
    plain: dict[str, Any] = {
        "network": {"weights": str(home / "net.safetensors")}, "data": {"name": "digits", "limit": 20}, "steps": steps,
        "deterministic": True, "latency_seconds": 0.01, "out": str(home / "run"),
    }  # fmt: skip
    run(recipe_from(plain))
    entry = {"files": {"model.onnx": "0" * 64}, "source": "1" * 64, "status": "equal", "images": 2, "max_error": 1e-6}
    (home / "parity.json").write_text(json.dumps({"onnx": entry | {"facts": {"input": ["n", 1, 8, 8]}}}))
    training_state(home)
    storage = StudyStorage.open(home / "search.log", "one", GRID)
    storage.set_attr("base", 93.5)
    storage.enqueue(GRID.grid())
    for macs in (0.9, 0.7):
        claimed = storage.claim()
        assert claimed is not None
        storage.tell(claimed[0], slimcnn.searching.Outcome(claimed[1], macs, 90.0), macs)
    chance = np.random.default_rng(0)
    for number in range(24):
        path = home / "pictures" / ("cats", "dogs")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 255, (8, 8), dtype=np.uint8)).save(path)
    (home / "pictures" / "cats" / "0.png").rename(home / "pictures" / "cats" / "1.png")
    return home


def damaged(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """One kind of damage, and the file after it."""
    how = chance.choice(["flip", "flip", "flip", "cut", "foreign", "zeros"])
    place = chance.randrange(len(content))
    if how == "cut":
        return f"cut after {place} bytes", content[:place]
    if how == "zeros":
        return f"zeros from {place}", content[:place] + bytes(len(content) - place)
    if how == "foreign":
        other = json.dumps(chance.choice(FOREIGN)).encode()
        return f"foreign {other!r}", other
    bit = chance.randrange(8)
    return f"bit {bit} of byte {place}", content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def faults(kind: Kind, whole: Path, home: Path, number: int) -> list[str]:
    """What went wrong when damaged files of a kind were read."""
    expected, content = kind.read(home), (whole / kind.path).read_bytes()
    found = []
    for seed in range(number):
        how, changed = damaged(content, random.Random(seed))
        shutil.rmtree(home)
        shutil.copytree(whole, home)
        (home / kind.path).write_bytes(changed)
        try:
            accepted = kind.read(home)
        except SlimcnnError as error:
            if "\n" in str(error):
                found.append(f"{how}: several lines: {error}")
            continue
        except Exception as error:  # the fault that this test is for
            found.append(f"{how}: {type(error).__name__}: {error}")
            continue
        if kind.sealed and accepted != expected and changed != content:
            found.append(f"{how}: accepted")
        if kind.claimed and changed != content and not differences(home / "run"):
            found.append(f"{how}: not found by the manifest")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_no_damaged_file_is_read_as_something_else(name: str, whole: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(whole, home)
    found = faults(KINDS[name], whole, home, -(-DAMAGES // len(KINDS)))
    assert not found, f"{len(found)} faults: " + "\n".join(found[:5])
