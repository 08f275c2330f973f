"""Training on a stream: the bits of training in memory, resumed in the middle of an epoch too."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import nn
from training_runs import PLAIN, network, tensors
from two_processes_on_a_stream import trained

from slimcnn.datasets import Dataset, load_dataset
from slimcnn.training import Training, evaluate, fit

SETTINGS = Training(epochs=2, batch_size=16, learning_rate=0.05, ema=0.9, save_every_seconds=0, **PLAIN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in "abcd":
        (place / name).mkdir()
        for number in range(30):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / name / f"{number}.png")
    return place


def both(folder: Path) -> tuple[Dataset, Dataset]:
    memory = load_dataset(folder, stream=False)
    stream = load_dataset(folder, stream=True, workers=1)
    return memory, replace(stream, normalization=memory.normalization)


def a_network() -> nn.Module:
    model = network()
    with torch.random.fork_rng():
        torch.manual_seed(6)
        model[0] = nn.Conv2d(3, 6, 3, padding=1, bias=False)
    return model


def test_training_on_a_stream_ends_with_the_bits_of_training_in_memory(folder: Path) -> None:
    found = []
    for data in both(folder):
        model = a_network()
        history = [(epoch.terms, epoch.validation_loss) for epoch in fit(model, data, training=SETTINGS)]
        found.append((history, tensors(model), evaluate(model, data.test, data.normalization)))
    assert found[0][0] == found[1][0]
    assert found[0][2] == found[1][2]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1].values(), found[1][1].values(), strict=True))


class Cut(Exception):
    pass


def test_a_stream_cut_in_the_middle_of_an_epoch_resumes_with_the_same_bits(folder: Path, tmp_path: Path) -> None:
    _, stream = both(folder)
    whole, cut = a_network(), a_network()
    list(fit(whole, stream, training=SETTINGS))

    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise Cut

    with pytest.raises(Cut):
        list(fit(cut, stream, training=SETTINGS, folder=tmp_path, progress=interrupt))
    resumed, steps = a_network(), []
    list(fit(resumed, stream, training=SETTINGS, folder=tmp_path, progress=lambda done, _: steps.append(done)))
    assert steps[0] == 4
    assert all(torch.equal(a, b) for a, b in zip(tensors(whole).values(), tensors(resumed).values(), strict=True))


@pytest.mark.slow
def test_two_processes_on_a_stream_give_the_curve_of_one_and_each_decodes_its_share(
    folder: Path, tmp_path: Path
) -> None:
    script = Path(__file__).with_name("two_processes_on_a_stream.py")
    command = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, *command, str(folder), str(tmp_path)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank_{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = trained(load_dataset(folder, stream=True, workers=1), Fabric(accelerator="cpu", devices=1))
    assert first["curve"] == second["curve"]
    for two, one in zip(first["curve"], alone["curve"], strict=True):
        assert two == pytest.approx(one, rel=1e-6)
    for name, tensor in alone["weights"].items():
        torch.testing.assert_close(first["weights"][name], tensor, rtol=1e-4, atol=1e-6)
    # Two epochs in other orders: some images are seen by both, but neither decodes all of them.
    assert set(first["opened"]) | set(second["opened"]) == set(alone["opened"])
    assert max(len(first["opened"]), len(second["opened"])) < len(alone["opened"])
