"""slimcnn verify: a table for people, JSON for machines, and an exit code for scripts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from slimcnn.cli import main
from slimcnn.verifying import Certificate


def called(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["slimcnn", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_true_run_exits_with_0_and_a_page_and_json_say_so(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, out = tmp_path / "page.html", tmp_path / "out"
    assert called(monkeypatch, "verify", copied, "--no-data", "--page", page, "--out", out) == 0
    said = capsys.readouterr().out
    assert said.startswith("verified: 10 checks passed, 3 not checked, none failed")
    assert str(out / "certificate.json") in said
    assert not (copied / "certificate.json").exists()
    assert "prune == mask" in page.read_text()
    assert called(monkeypatch, "verify", copied, "--no-data", "--json") == 0
    assert not Certificate.model_validate(json.loads(capsys.readouterr().out)).failed


def test_a_changed_run_exits_with_1_and_names_the_file(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "report.html").write_text("better")
    assert called(monkeypatch, "verify", copied, "--no-data") == 1
    assert capsys.readouterr().out.startswith("FAILED, 1 of 13 checks: digest (report.html)")


def test_a_folder_without_a_run_exits_with_2_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "verify", tmp_path) == 2
    assert capsys.readouterr().err.endswith(f"slimcnn: {tmp_path} holds no run: give the folder of a finished run\n")


def test_a_report_that_is_rendered_anew_stays_verified_unless_somebody_had_changed_it(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert called(monkeypatch, "report", copied) == 0
    assert len((copied / "report.html").read_text()) > 10_000
    assert called(monkeypatch, "verify", copied, "--no-data") == 0
    report = (copied / "report.json").read_text()
    (copied / "report.json").write_text(report.replace('"seconds": ', '"seconds": 1'))
    assert called(monkeypatch, "report", copied) == 0
    assert called(monkeypatch, "verify", copied, "--no-data") == 1
