"""The recipe for ImageNet on 8 GPUs: its settings load, and it runs and resumes in two processes on a tiny copy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slimcnn.datasets import Augmentation
from slimcnn.running.recipe import read_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "imagenet_8gpu.toml"


def test_the_recipe_loads_with_the_settings_that_it_promises() -> None:
    recipe = read_recipe(RECIPE)
    (train,) = recipe.steps
    assert (train.batch_size, train.optimizer, train.schedule) == (2048, "sgd", "cosine")  # type: ignore[attr-defined]
    assert train.learning_rate == pytest.approx(0.1 * 2048 / 256)  # type: ignore[attr-defined]
    found = Augmentation.named(train.augmentation)  # type: ignore[attr-defined]
    assert found.flip
    assert "cutmix" in found.others
    assert (recipe.data.image_size, recipe.data.resize) == (224, 256)


@pytest.mark.slow
def test_the_recipe_runs_and_resumes_in_two_processes_on_a_tiny_copy_of_the_layout(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 4)):
        for name in ("n01440764", "n01443537"):
            folder = tmp_path / "imagenet" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (24, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{name}_{number}.JPEG", quality=90)
    small = {
        "network.model": "resnet8", "data.image_size": "16", "data.resize": "18", "data.workers": "1",
        "train.epochs": "2", "train.batch_size": "8", "train.accumulate": "3", "train.warmup_epochs": "1",
        "train.precision": '"32"', "train.layout": "nchw", "latency_seconds": "0.1",
    }  # fmt: skip
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    line = [sys.executable, *torchrun, "-m", "slimcnn.cli", "run", str(RECIPE), "--data", str(tmp_path / "imagenet")]
    line += ["--out", str(tmp_path / "run"), *[word for item in small.items() for word in ("--set", "=".join(item))]]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for _ in range(2):  # the second call finds the training done
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").exists()
