"""Networks and images that are not ours go the whole way: a folder of pictures in, a smaller network out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import slimcnn
from slimcnn.running import Recipe, recipe_from, run

MODULE = """
from torch import nn

def build(num_classes=3):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes),
    )
"""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three classes of noise, each of its own brightness."""
    random = np.random.default_rng(0)
    for part, n in (("train", 20), ("test", 6)):
        for level, name in enumerate(("dark", "gray", "light")):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = random.integers(80 * level, 80 * level + 60, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "pictures"


def recipe_for(model: str, weights: Path, pictures: Path, out: Path) -> Recipe:
    return recipe_from(
        {
            "network": {"model": model, "weights": str(weights)},
            "data": {"name": str(pictures), "image_size": 32},
            "steps": [
                {"step": "prune", "scope": "local", "criterion": "fpdf"},
                {"step": "recalibrate", "images": 60},
            ],
            "latency_seconds": 0.1,
            "out": str(out),
        }
    )


@pytest.mark.parametrize("spec", ["timm:resnet10t", "torchvision:mobilenet_v3_small"])
def test_networks_of_timm_and_torchvision_are_cut_with_their_own_weights_file(
    spec: str, pictures: Path, tmp_path: Path
) -> None:
    torch.save(slimcnn.resolve(spec, num_classes=3).state_dict(), tmp_path / "weights.pt")
    report = run(recipe_for(spec, tmp_path / "weights.pt", pictures, tmp_path / "out")).report
    assert report.verdict.equal
    assert report.after.macs <= 0.5 * report.before.macs
    loaded = slimcnn.load(tmp_path / "out" / "compressed.safetensors")
    assert slimcnn.measure(loaded, torch.zeros(1, 3, 32, 32)).params == report.after.params


def test_a_function_of_the_users_is_built_cut_and_loaded_with_a_fresh_original(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_nets.py").write_text(MODULE)
    original = slimcnn.resolve("my_nets:build", num_classes=3)
    slimcnn.save(original, tmp_path / "original.safetensors")
    recipe = recipe_for("my_nets:build", tmp_path / "original.safetensors", pictures, tmp_path / "out")
    report = run(recipe).report
    assert report.after.macs <= 0.5 * report.before.macs
    fresh = slimcnn.resolve("my_nets:build", num_classes=3)
    loaded = slimcnn.load(tmp_path / "out" / "compressed.safetensors", fresh)
    assert slimcnn.measure(loaded, torch.zeros(1, 3, 32, 32)).macs == report.after.macs


@pytest.mark.slow
def test_two_processes_do_the_whole_run_and_agree_on_the_plan(tmp_path: Path) -> None:
    arguments = "compress --model resnet8 --data digits --pretrain 2 --epochs 1 --criterion taylor --devices 2 --json"
    done = subprocess.run(
        [sys.executable, "-m", "slimcnn.cli", *arguments.split(), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout[done.stdout.index("{") :])
    assert report["verdict"]["equal"]
    assert report["after"]["macs"] <= 0.5 * report["before"]["macs"]
