"""Hostile files and options on the command line: one line on stderr, exit code 2, no traceback, no hang."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import slimcnn
from command_line import call
from slimcnn.cli import main


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


# --- options and files ------------------------------------------------------------------------------------------------

LONG = "a" * 300
CUT = "compress --data digits --limit 100 --to none --minutes 0 --weights {weights}"
REFUSED = {
    "threads": ("benchmark {weights} --input 1x8x8 --runtime torch --threads 1000000", "1,000,000 CPU threads"),
    "threads of zoo": ("zoo igcv3 --threads 1000000", "1,000,000 CPU threads"),
    "negative input": ("measure --model resnet8 --input 3x-1x8", "3x-1x8"),
    "huge input": ("measure --model resnet8 --input 3x100000x100000", "GB of memory"),
    "input beyond 64 bits": ("inspect --model resnet8 --input 3x99999999999999999999x8", "GB of memory"),
    "float classes": ("measure --model resnet8 --model-arg num_classes=1e9", "num_classes"),
    "huge classes": ("measure --model resnet8 --model-arg num_classes=1000000000000", "cannot be built"),
    "null": ("measure --model resnet8 --model-arg x=null", "no argument 'x'"),
    "deep argument": (f"measure --model resnet8 --model-arg x={'[' * 20_000}", "no argument 'x'"),
    "long export": (f"export --model resnet8 --input 1x8x8 --to torch_export --out {LONG}", "File name too long"),
    "round_to": (f"{CUT} --round-to {10**23} --out out", "round_to"),
    "seed": (f"{CUT} --seed {10**23} --out out", "seed"),
    "link loop": ("measure --model resnet8 --weights loop", "loop"),
    "plan link loop": (f"{CUT} --plan loop --out out", "loop"),
    "unknown home": ("measure --model resnet8 --weights ~nobody-here/a.pt", "nobody-here"),
    "deep recipe": ("run deep.toml", "not TOML"),
    "huge number": ("run digits.toml", "not TOML"),
    "weightless loss": ("distill --teacher resnet8 --student resnet8 --loss 0*kd --out out", "weight 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_hostile_options_and_files_are_refused_in_one_line(
    case: str, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    Path("loop").symlink_to("loop")
    Path("deep.toml").write_text("a = " + "[" * 5000 + "]" * 5000)
    Path("digits.toml").write_text("a = " + "9" * 10_000)
    command, words = REFUSED[case]
    assert_one_line(call(command.format(weights=checkpoint), capsys, monkeypatch), words)


@pytest.mark.parametrize("option", ["--out", "--weights", "--data"])
def test_names_that_are_not_utf8_are_refused_in_one_line(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"b\xffd")
    monkeypatch.setattr(
        sys, "argv", ["slimcnn", "train", "--model", "resnet8", "--epochs", "1", "--out", "out", option, name]
    )
    if option == "--data":
        Path(name).mkdir()
    with pytest.raises(SystemExit) as stop:
        main()
    assert_one_line((int(stop.value.code or 0), "", capsys.readouterr().err), "not UTF-8")


def test_fewer_devices_than_one_are_refused(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = call(f"compress --weights {checkpoint} --devices 0", capsys, monkeypatch)
    assert (code, "Traceback" in err) == (2, False)


@pytest.mark.parametrize("content", ["[]", "null", "1", '{"format": "x"}', "{}", "[" * 100_000])
def test_a_report_with_other_json_is_refused_in_one_line(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.json").write_text(content)
    assert_one_line(call(f"report {tmp_path}", capsys, monkeypatch), "report.json")


@pytest.mark.parametrize(("stream", "code"), [("stdout", 2), ("stderr", 2)])
def test_a_full_device_ends_the_command_without_a_traceback(stream: str, code: int) -> None:
    arguments = ["list", "networks"] if stream == "stdout" else ["report", "no such folder"]
    with open("/dev/full", "w") as full:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: full}
        done = subprocess.run([sys.executable, "-m", "slimcnn.cli", *arguments], **streams, text=True, check=False)
    assert done.returncode == code
    if stream == "stdout":
        assert "slimcnn: cannot write the output: No space left on device" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_terminal_in_ascii_gets_every_line() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "slimcnn.cli", "list", "criteria"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
