"""Targets in bytes: written with their unit, met by the file on the disk and by the network that runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import slimcnn
from slimcnn.datasets import Dataset
from slimcnn.errors import SlimcnnError, TargetError, TargetUnreachable
from slimcnn.reporting import Report
from slimcnn.reporting.comparison import verdict_in_words
from slimcnn.reporting.schema import Numbers
from slimcnn.running.advice import next_steps
from slimcnn.running.recipe import parse_recipe, recipe_from, steps_from_line
from slimcnn.steps import Prune


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return slimcnn.load_dataset("digits").limit(100)


def cut(net: nn.Module, digits: Dataset, out: Path, **settings: object) -> Report:
    step = Prune.model_validate({"batches": 1} | settings)
    report = slimcnn.chain(net, digits, [step], latency_seconds=0.01, out=out).report
    assert isinstance(report, Report)
    return report


@pytest.mark.parametrize(("written", "bytes_"), [
    ("500kB", 500_000), ("1MiB", 2**20), ("8 MB", 8_000_000), (1234, 1234), ("1234", 1234),
])  # fmt: skip
def test_sizes_are_written_with_their_unit_and_a_recipe_keeps_them(written: object, bytes_: int) -> None:
    step = Prune.model_validate({"size": written, "memory": written})
    assert (step.target.bytes, step.target.memory, step.target.macs) == (bytes_, bytes_, None)
    assert step.target.scope == "sensitivity"
    recipe = recipe_from({"network": {"model": "resnet8"}, "steps": [{"step": "prune", "size": written}]})
    assert parse_recipe(recipe.to_toml()) == recipe


@pytest.mark.parametrize(("line", "said"), [
    ("prune:size=much", "size = 'much': could not parse value and unit from byte string"),
    ("prune:memory=0.5", "memory = 0.5: could not parse value and unit from byte string"),
    ("prune:memory=0", "memory=0: give a whole number of bytes, 1 or more"),
    ("prune:memory=8MB,pruning_ratio=0.5", "give one or the other"),
    ("prune:size=8MB,search.max_drop=1", "leave macs, params, size, memory, latency and pruning_ratio out"),
])  # fmt: skip
def test_a_size_that_makes_no_sense_is_refused_in_one_line(line: str, said: str) -> None:
    with pytest.raises(SlimcnnError) as caught:
        recipe_from({"network": {"model": "resnet8"}, "steps": steps_from_line(line)})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_and_running_memory_of_a_run_are_at_most_what_was_asked_for(tmp_path: Path, digits: Dataset) -> None:
    net = slimcnn.build("resnet8", in_channels=1)
    report = cut(net, digits, tmp_path / "run", size="200kB", memory="9kB")
    assert 0.9 * 200_000 < (tmp_path / "run" / "compressed.safetensors").stat().st_size <= 200_000
    small = slimcnn.load(tmp_path / "run" / "compressed.safetensors")
    assert slimcnn.measure(small, torch.zeros(1, 1, 8, 8)).peak_memory == report.after.peak_memory <= 9_000
    assert report.before.peak_memory == slimcnn.measure(net, torch.zeros(1, 1, 8, 8)).peak_memory > 9_000
    assert "It runs in 27 % less memory." in verdict_in_words(report)[0]


def test_a_size_below_what_the_file_needs_says_what_is_possible(tmp_path: Path, digits: Dataset) -> None:
    net = slimcnn.build("resnet8", in_channels=1)
    with pytest.raises(TargetError, match=r"size=2 kB: the header of this network's file alone takes \d"):
        cut(net, digits, tmp_path / "a", size="2kB")
    with pytest.raises(TargetUnreachable, match=r"the best possible is size=\d+\.?\d* kB") as caught:
        cut(net, digits, tmp_path / "b", size="5.4kB")
    possible = str(caught.value).partition("size=")[2].split(";")[0].replace(" ", "")
    assert cut(net, digits, tmp_path / "c", size=possible).after.params


def test_advice_names_the_target_that_was_asked_for(tmp_path: Path) -> None:
    def advice(line: str, lost: float, file: int = 1000) -> str:
        recipe = recipe_from({"network": {"model": "resnet8"}, "steps": steps_from_line(line)})
        before = Numbers(top1=90, params=9, macs=9, bytes=2000, peak_memory=9, latency_ms=1)
        after = before.model_copy(update={"top1": 90 - lost, "bytes": file})
        return " ".join(next_steps(recipe, before, after, tmp_path))

    assert "a larger --memory" in advice("prune:memory=8kB", lost=5)
    assert "try a smaller --size" in advice("prune:size=8kB", lost=0)
    assert "a smaller --pruning-ratio" in advice("prune:pruning_ratio=0.5", lost=5)
    assert "The file is 1.100 kB, larger than the target of 1.000 kB" in advice("prune:size=1kB", lost=0, file=1100)
