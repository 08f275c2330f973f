"""Runs on a stream: every step that looks at data gives the network that it gives in memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from command_line import call
from slimcnn.datasets import reading
from slimcnn.datasets.streams import Stream

STEPS = (
    "train:epochs=1 + sparsify:epochs=1,relations=none + prune:macs=0.7,criterion=taylor,batches=2 + recalibrate + "
    "prune:macs=0.6 + least_squares:images=64 + distill:epochs=1,loss=0.5*cross_entropy+0.5*kd"
)
SETTINGS = (
    "--deterministic --set latency_seconds=0.05 --set data.image_size=8 "
    """--set 'data.normalization={"mean":[0.5,0.5,0.5],"std":[0.3,0.3,0.3]}'"""
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for kind, name in enumerate(("ants", "bees", "crabs")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(60):
            pixels = generator.integers(0, 120, (9, 12, 3), dtype=np.uint8)
            pixels[:, :, kind] += 90
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


@pytest.mark.slow
def test_every_step_gives_on_a_stream_the_network_that_it_gives_in_memory(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for way in ("stream", "no-stream"):
        out = photos.parent / way
        line = f"run --steps '{STEPS}' --model resnet8 --data {photos} --out {out} --{way} {SETTINGS}"
        code, _, said = call(line, capsys, monkeypatch)
        assert code == 0, said
        found[way] = load_file(out / "compressed.safetensors"), json.loads((out / "report.json").read_text())
    (streamed, told), (memory, known) = found["stream"], found["no-stream"]
    assert streamed.keys() == memory.keys()
    assert all(torch.equal(streamed[name], memory[name]) for name in memory)
    assert (told["before"]["top1"], told["after"]["top1"]) == (known["before"]["top1"], known["after"]["top1"])


def test_a_run_that_streams_still_does_when_there_is_more_memory_later(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"train --model resnet8 --data {photos} --out {photos.parent / 'out'} --image-size 8 --epochs"
    settings = "--deterministic --set latency_seconds=0.05"
    monkeypatch.setattr(reading, "free_memory", lambda: 1000)
    assert call(f"{line} 1 {settings}", capsys, monkeypatch)[0] == 0
    monkeypatch.undo()
    read: list[int] = []
    whole = Stream.read
    monkeypatch.setattr(Stream, "read", lambda self, *asked: read.append(len(self)) or whole(self, *asked))
    code, _, said = call(f"{line} 2 {settings}", capsys, monkeypatch)
    assert code == 0, said
    assert read


@pytest.mark.parametrize("command", ["train --epochs 1", "evaluate"])
def test_a_broken_image_is_one_line_and_code_2_or_left_out_and_counted(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    broken = photos / "bees" / "3.png"
    broken.write_bytes(broken.read_bytes()[:200])
    out = f"--out {photos.parent / 'out'} --deterministic --set latency_seconds=0.05" if "train" in command else ""
    line = f"{command} --model resnet8 --data {photos} --image-size 8 --no-stream {out}"
    code, _, said = call(line, capsys, monkeypatch)
    assert (code, len(said.strip().splitlines()[-1:])) == (2, 1)
    assert "bees/3.png is broken" in said
    code, _, said = call(f"{line} --skip-broken", capsys, monkeypatch)
    assert code == 0, said
    assert "1 broken image left out so far" in said


READY = """
import torch

class Noise:
    def __init__(self, n):
        self.targets = [i % 3 for i in range(n)]
    def __len__(self):
        return len(self.targets)
    def __getitem__(self, i):
        return torch.rand(3, 8, 8) + self.targets[i], self.targets[i]

def ready():
    return {"train": Noise(90), "val": Noise(12), "test": Noise(15), "classes": ["ants", "bees", "crabs"]}
"""


@pytest.mark.slow
def test_a_run_takes_the_tensors_of_a_users_dataset_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_noise.py").write_text(READY)
    monkeypatch.chdir(tmp_path)
    steps = "train:epochs=1 + prune:macs=0.6 + least_squares:images=64 + export:to=onnx"
    line = f"run --steps '{steps}' --model resnet8 --data my_noise:ready --out out --deterministic"
    code, _, said = call(f"{line} --set latency_seconds=0.05", capsys, monkeypatch)
    assert code == 0, said
    report = json.loads(Path("out/report.json").read_text())
    assert report["images"] == {"train": 90, "validation": 12, "test": 15}
    known = json.loads(Path("out/parity.json").read_text())["onnx"]
    assert (known["status"], known["images"]) == ("equal", 16)  # random samples: there are no pixels
