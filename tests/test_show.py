"""Progress: a bar in a terminal, a line now and then in a log file."""

from __future__ import annotations

import pytest

from slimcnn import show


def test_a_log_file_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr("slimcnn.show.time.monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(show, "EVERY_SECONDS", 30.0)
    with show.watched() as seen:
        for done in range(4):
            seen.progress("searching", done, 4)
    lines = [line for line in capsys.readouterr().err.splitlines() if "searching" in line]
    assert lines
    assert len(lines) < 4
    assert "0/?" not in "".join(lines)


def test_nothing_is_counted_where_nobody_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with show.watched() as seen:
        seen.say("tracing")
    told = capsys.readouterr().err
    assert "working" in told
    assert "0/?" not in told
