"""The metrics of every epoch go to a logger: any function of a dict, or TensorBoard."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import slimcnn
from command_line import call
from slimcnn.show import SILENT
from slimcnn.steps import Distill, Prune, Train

FIXED = {"layout": "nchw", "precision": "32"}


def test_on_epoch_gets_the_numbers_of_every_epoch_of_every_step_that_trains_once(tmp_path: Path) -> None:
    data = slimcnn.load_dataset("digits").limit(100)
    steps = [Train(epochs=2, **FIXED), Prune(macs=0.5), Distill(epochs=1, learning_rate=0.01, **FIXED)]
    net, found = slimcnn.build("resnet8"), list[Mapping[str, float]]()
    given = {"out": tmp_path, "trained": False, "latency_seconds": 0.01, "show": SILENT, "on_epoch": found.append}
    slimcnn.chain(net, data, steps, **given)
    assert [(row["epoch"], {name.partition("/")[0] for name in row}) for row in found] == [
        (1, {"epoch", "1-train"}), (2, {"epoch", "1-train"}), (1, {"epoch", "3-distill"}),
    ]  # fmt: skip
    assert {"1-train/loss", "1-train/validation_top1", "1-train/learning_rate"} <= set(found[0])
    assert "3-distill/term_kd" in found[2]
    assert all(isinstance(value, float | int) for row in found for value in row.values())
    slimcnn.chain(net, data, steps, **given)  # finished: nothing is trained again
    assert len(found) == 3


def test_without_tensorboard_the_command_says_what_to_install_before_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    code, _, told = call(f"train --epochs 1 --out {tmp_path}/run --tensorboard {tmp_path}/logs", capsys, monkeypatch)
    assert (code, told.strip().count("\n")) == (2, 0)
    assert "pip install tensorboard" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_tensorboard_reads_the_curve_of_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    command = (
        f"train --model resnet8 --limit 100 --epochs 2 --deterministic --set latency_seconds=0.01 --out {tmp_path}/run"
    )
    assert call(f"{command} --tensorboard {tmp_path}/logs", capsys, monkeypatch)[0] == 0
    read = accumulator.EventAccumulator(str(tmp_path / "logs"))
    read.Reload()
    assert [event.step for event in read.Scalars("1-train/loss")] == [1, 2]
    code, _, told = call(f"{command}2 --tensorboard {tmp_path}/run/report.json", capsys, monkeypatch)
    assert (code, told.count("\n")) == (2, 1)
