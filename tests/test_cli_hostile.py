"""Hostile files and options on the command line: one line on stderr, exit code 2, no traceback, no hang."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
import torch

import slimcnn
from slimcnn.cli import main


def call(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["slimcnn", *shlex.split(command)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def assert_one_line(answer: tuple[int, str, str], *says: str) -> None:
    code, _, err = answer
    assert code == 2, err
    *_, last = err.splitlines()  # progress may come before it
    assert last.startswith("slimcnn: "), err
    assert "Traceback" not in err
    assert len(last) < 1000
    assert all(word in last for word in says), err


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return slimcnn.save(slimcnn.build("resnet8", in_channels=1), tmp_path / "net.safetensors")


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_refused_unless_no_verify_is_given(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[-3] ^= 1
    checkpoint.write_bytes(content)
    command = f"inspect --weights {checkpoint} --input 1x8x8 --json"
    assert_one_line(call(command, capsys, monkeypatch), "digest", "--no-verify")
    code, out, _ = call(f"{command} --no-verify", capsys, monkeypatch)
    assert (code, out[0]) == (0, "{")


@pytest.mark.filterwarnings("default")
def test_a_checkpoint_without_a_digest_is_read_with_a_note_of_one_line(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content.replace(b"slimcnn_sha256", b"another_sha256"))
    code, _, err = call(f"inspect --weights {checkpoint} --input 1x8x8", capsys, monkeypatch)
    assert code == 0
    assert err.startswith("slimcnn: note: ")
    assert err.count("\n") == 1
    assert "has no digest" in err


@pytest.mark.parametrize("model", ["NONSENSE", "resnet20"])
def test_another_network_beside_a_checkpoint_is_refused(
    model: str, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_one_line(call(f"evaluate --model {model} --weights {checkpoint}", capsys, monkeypatch), model)
