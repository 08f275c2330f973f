"""The scripts in examples/ run as they stand, and end with a cut network that is still good."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import slimcnn

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDS = {
    "plain_loop": (), "timm_recipe": ("timm",), "lightning_loop": ("lightning",),
    "huggingface_trainer": ("transformers", "accelerate"),
}  # fmt: skip
"""Script → what it imports besides slimcnn and torch: pip install 'slimcnn[examples]'."""


def test_every_example_is_run_by_a_test() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(NEEDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_an_example_cuts_and_stays_good(name: str, tmp_path: Path) -> None:
    for package in NEEDS[name]:
        pytest.importorskip(package)
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    told = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    macs, top1 = re.findall(r"([\d,]+) MACs, validation top-1 ([\d.]+) %", told)[-1]
    assert float(top1) > 90
    (saved,) = tmp_path.glob("*.safetensors")
    images = torch.zeros(1, 1, *(32, 32) if name == "timm_recipe" else (8, 8))
    before = slimcnn.resolve("timm:resnet10t", in_chans=1) if name == "timm_recipe" else slimcnn.build("resnet8")
    after = slimcnn.measure(slimcnn.load(saved), images).macs
    assert int(macs.replace(",", "")) == after <= 0.5 * slimcnn.measure(before, images).macs
