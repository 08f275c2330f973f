"""The command line, run in this process."""

from __future__ import annotations

import shlex
import sys

import pytest

from slimcnn.cli import main


def call(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    """Run a line; its exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["slimcnn", *shlex.split(command)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err
