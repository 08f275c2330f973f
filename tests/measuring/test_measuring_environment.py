"""The environment is text, tells the truth about this process, and never fails."""

import importlib
import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch

from slimcnn.measuring import environment

module = importlib.import_module("slimcnn.measuring.environment")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    module.cpu_name.cache_clear()
    module._commit.cache_clear()


def test_it_is_text_about_this_process() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert {"python", "torch", "cpu", "cores", "threads", "os"} <= set(found)
    assert found["torch"] == torch.__version__
    assert found["threads"] == str(torch.get_num_threads())
    assert 1 <= int(found["cores"]) <= (os.cpu_count() or 1)
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_commit_is_one_where_it_is_known() -> None:
    assert re.fullmatch(r"([0-9a-f]{40}(-dirty)?)?", environment().get("commit", ""))


def test_it_never_fails_where_nothing_can_be_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreadable(*_: object, **__: object) -> str:
        raise PermissionError

    monkeypatch.setenv("PATH", str(tmp_path))  # no git, no sysctl
    monkeypatch.setattr(Path, "read_text", unreadable)
    monkeypatch.setattr(module, "_version", lambda _: "")
    found = environment()
    assert "commit" not in found
    assert "slimcnn" not in found
    assert found["cpu"]


def test_somebody_elses_checkout_is_not_our_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_output", lambda *command: str(tmp_path) if "rev-parse" in command else "f" * 40)
    assert module._commit() == ""
