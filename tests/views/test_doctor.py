"""What works on this machine: slimcnn doctor."""

from __future__ import annotations

import importlib
import json

import pytest

from command_line import call
from slimcnn import __version__, views
from slimcnn.exporting import RUNTIMES, why_not

module = importlib.import_module("slimcnn.views.doctor")  # the function of the same name hides it


@pytest.mark.slow
def test_every_runtime_is_tried_and_works_or_says_why_not() -> None:
    found = views.doctor().data["runtimes"]
    assert set(found) == set(RUNTIMES)
    for name, one in found.items():
        assert one["works"] == (not one["why"])
        assert one["works"] == (not why_not(name))  # here, everything that is installed works


def test_a_runtime_that_is_installed_but_broken_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ImportError("libsomething.so is missing\nand more")

    monkeypatch.setattr(module, "export", broken)
    found = views.doctor().data["runtimes"]
    assert found["onnxruntime"] == {"works": False, "why": "ImportError: libsomething.so is missing"}


def test_what_is_missing_is_shown_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "export", lambda *_, **__: ())
    monkeypatch.setitem(module.EXTRAS, "mobile", ("no_such_package", "phones"))
    view = views.doctor()
    rows = [row for section in view.sections for block in section.blocks if block.kind == "table" for row in block.rows]
    assert ("mobile", "phones", "pip install 'slimcnn[mobile]'") in rows


def test_little_memory_and_disk_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "export", lambda *_, **__: ())
    monkeypatch.setattr(module, "_free_memory", lambda: 1_000_000_000)
    said = [b.text for section in views.doctor().sections for b in section.blocks if b.kind == "text"]
    assert any("Only 1.0 GB of memory are free" in one for one in said)


def test_the_command_prints_json_and_the_version(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "export", lambda *_, **__: ())
    code, out, _ = call("doctor --json", capsys, monkeypatch)
    assert code == 0
    assert json.loads(out)["versions"]["slimcnn"] == __version__
    code, out, _ = call("--version", capsys, monkeypatch)
    assert (code, out) == (0, f"slimcnn {__version__}\n")
